"""Values of `cci provision up` that need more than their text: tags, variables, secrets, times."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import typer

from cci_plugins.errors import ConfigurationError

from . import console
from .variables import parse_pairs, split_pair

# Options of `up` that do not describe the deployment, or that name which one it is.
_OTHERS = {"subscription", "resource_group", "name", "suffix", "env_file", "write_key"} | {
    "replace_env",
    "plan",
    "yes",
    "as_json",
    "polling",
}


def convert_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a deployment from all options of `up`.

    A plan creates nothing, so it needs no secret.

    Args:
        given: Options by their names. None leaves one out.

    Raises:
        ConfigurationError: A value is not in its form, or a secret has none.
    """
    values = {name: value for name, value in given.items() if name not in _OTHERS}
    if values["cooldown"] is not None:
        values["cooldown"] = timedelta(seconds=values["cooldown"])
    for name, flag in (("tags", "--tag"), ("env", "--env")):
        values[name] = parse_pairs(values[name], flag) if values[name] else None
    if values["secrets"]:
        values["secrets"] = {
            name: _read_secret(name, plan=given["plan"]) for name in values["secrets"]
        }
    else:
        values["secrets"] = None
    return values


def _read_secret(name: str, *, plan: bool) -> str | None:
    """Return a secret from the environment or a prompt. Command lines are visible to others."""
    name, given = split_pair(name, "--secret")
    if given is not None:
        raise ConfigurationError(
            f"--secret {name} has a value, which other users of this machine can see",
            hint=f"set the variable {name} and write --secret {name}",
        )
    value = os.environ.get(name)
    if value or plan:
        return value or None
    if not console.is_interactive():
        raise ConfigurationError(
            f"the secret {name} has no value", hint=f"set the variable {name} in the environment"
        )
    return str(typer.prompt(name, hide_input=True, err=True))
