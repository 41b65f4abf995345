"""The container of an existing custom pool, as Azure returns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cci_plugins.common.settings import SESSION_ENV_PREFIX, get_variable_name

from .resource import lowercase_keys

_OWN_VARIABLES = {get_variable_name("container_cpu"), get_variable_name("container_memory")}


def read_container(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the container of a custom pool, or an empty one.

    Args:
        properties: The pool's properties, with keys in lower case.
    """
    template = lowercase_keys(properties.get("customcontainertemplate"))
    return get_first(template.get("containers"))


def read_variables(properties: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return the variables for the code of a custom pool, and the names of the secret ones.

    Args:
        properties: The pool's properties, with keys in lower case.
    """
    plain, secret = {}, []
    given = read_container(properties).get("env")
    for item in map(lowercase_keys, given if isinstance(given, list) else []):
        name = str(item.get("name", "")).removeprefix(SESSION_ENV_PREFIX)
        if name in _OWN_VARIABLES:
            continue
        if item.get("secretref"):
            secret.append(name)
        else:
            plain[name] = str(item.get("value") or "")
    return plain, secret


def describe_container(properties: Mapping[str, Any]) -> str:
    """Return the size and the variables of a custom pool's container in words, or nothing.

    Args:
        properties: The pool's properties, with keys in lower case.
    """
    container = read_container(properties)
    size = lowercase_keys(container.get("resources"))
    if not size:
        return ""
    plain, secret = read_variables(properties)
    return (
        f"{size.get('cpu')} CPU and {size.get('memory')} for each session, "
        f"{len(plain)} variables and {len(secret)} secrets for the code"
    )


def get_first(items: object) -> dict[str, Any]:
    """Return the first JSON object of a list with keys in lower case, or an empty one."""
    return lowercase_keys(items[0]) if isinstance(items, list) and items else {}
