"""Notes on executions that failed because their session has no network."""

from __future__ import annotations

import re
from dataclasses import replace

from cci_plugins.models import Execution

from .base import Capabilities

NO_NETWORK = (
    "The sandbox has neither network nor pip: use the installed packages and the given files."
)
NO_PIP = "The sandbox has neither network nor pip: install_packages adds packages."
_NO_NETWORK = "the session has no network"
_NO_MODULE = re.compile(r"No module named '?(?P<name>[\w.]+)")
_LOOK_UP = re.compile(
    r"Name or service not known|Temporary failure in name resolution|getaddrinfo failed"
    r"|nodename nor servname|Could not resolve host|Network is unreachable"
)
_PIP = re.compile(
    r"No module named '?pip\b|No matching distribution found|externally-managed-environment"
    r"|\b(?:pip3?|uv|conda): (?:command )?not found|because the network was disabled"
)
PIP_REFUSED = "pip cannot install packages here: the session has no network; "
HOST_INSTALLS = "the host can install {} into the Python of the sessions"
_CONNECTION_ERRORS = frozenset({"gaierror", "URLError", "ConnectionError", "ConnectError"})
_SCANNED_CHARACTERS = 20_000  # of the end of each text


def add_network_note(
    execution: Execution, capabilities: Capabilities, way: str = HOST_INSTALLS
) -> Execution:
    """Return the execution, with a note if an import or a look-up failed for want of a network.

    Args:
        execution: The outcome of a run. It may have that note already.
        capabilities: Abilities of its pool. Nothing is added unless it has no egress for sure.
        way: How packages can be installed, with a gap for them.
    """
    if capabilities.egress is not False or any(_NO_NETWORK in note for note in execution.notes):
        return execution
    note = _find_note(execution, way)
    return execution if note is None else replace(execution, notes=(*execution.notes, note))


def _find_note(execution: Execution, way: str) -> str | None:
    error = execution.error
    message = "" if error is None else f"{error.message}\n{error.traceback}"
    printed = (execution.stdout[-_SCANNED_CHARACTERS:], execution.stderr[-_SCANNED_CHARACTERS:])
    texts = (message[-_SCANNED_CHARACTERS:], *printed)
    if any(map(_PIP.search, texts)):
        return PIP_REFUSED + way.format("them")
    if error is not None and error.name == "ModuleNotFoundError":
        found = _NO_MODULE.search(error.message)
        if found is not None:
            return (
                f"{found['name']} is not installed and cannot be: the session has no network; "
                + way.format("it")
            )
    is_connection = error is not None and (
        error.name in _CONNECTION_ERRORS
        or (error.name == "PermissionError" and "socket.py" in error.traceback)
    )
    if is_connection or any(map(_LOOK_UP.search, texts)):
        return (
            "the session has no network; the host can upload the data, or allow hosts "
            "with CCI_EGRESS"
        )
    return None
