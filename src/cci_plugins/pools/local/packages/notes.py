"""Answers to code that tries to install packages in a session without a network."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from cci_plugins.errors import CodeInterpreterError
from cci_plugins.models import Execution
from cci_plugins.pools.base import Capabilities
from cci_plugins.pools.network_notes import PIP_REFUSED, add_network_note

from .names import canonicalize_name, parse_requirement

# Without an index pip and uv answer at once, in place of looking for one again and again.
NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "UV_OFFLINE": "1"}
_INSTALL = re.compile(r"\b(?:pip3?|uv)\b.{0,60}?\binstall\b(?P<rest>[^\n;&|#]*)")
_WORD = re.compile(r"[^\s'\",()\[\]]+")


async def add_package_note(
    execution: Execution,
    code: str,
    capabilities: Capabilities,
    allowed: str,
    list_versions: Callable[[], Awaitable[Mapping[str, str]]],
) -> Execution:
    """Return the execution, with a note if it could not install or import a package.

    Args:
        execution: The outcome of a run.
        code: Its code.
        capabilities: Abilities of the pool.
        allowed: Which packages the application allows, as a clause or empty.
        list_versions: Returns what the session has, by normalized name.
    """
    way = f"the host can install {{}} by session.install(), packages= or CCI_PACKAGES{allowed}"
    noted = add_network_note(execution, capabilities, way)
    if noted is execution or not noted.notes[-1].startswith(PIP_REFUSED):
        return noted
    names = find_installed_names(code)
    if not names:
        return noted
    versions: Mapping[str, str] = {}
    with suppress(CodeInterpreterError, OSError):  # the run itself is done
        versions = await list_versions()
    if not all(name in versions for name in names):
        return noted
    found = ", ".join(f"{name} {versions[name]}" for name in names)
    note = f"already installed: {found}; pip is not needed, and the session has no network"
    return replace(noted, notes=(*execution.notes, note))


def find_installed_names(code: str) -> list[str]:
    """Return the normalized names of packages that the code would install by pip or uv.

    Empty if it names anything else too.
    """
    found: list[str] = []
    for call in _INSTALL.finditer(code):
        for word in _WORD.findall(call["rest"]):
            if word.startswith("-"):
                continue
            requirement = parse_requirement(word)
            if requirement is None:
                return []
            found.append(canonicalize_name(requirement.name))
    return list(dict.fromkeys(found))
