"""The tool `install_packages`: it installs packages into the session of the conversation.

It is offered only with `ToolOptions.install_packages`. A call passes these steps in order, and the
first that fails decides the reply:

1. Check the arguments, and that the pool can install packages.
2. Ask the approver, if the application has one. An exception counts as a denial.
3. Install, as `Session.install` does: whole or not at all.

Nothing is raised but cancellation.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from cci_plugins.common.approval import ApprovalRequest, Approver
from cci_plugins.core.interpreter import AnyInterpreter
from cci_plugins.core.session import Session
from cci_plugins.models import Execution
from cci_plugins.pools.base import check_packages_support
from cci_plugins.redaction import redact

from . import execute_code
from .execute_code import ToolReply

NAME = "install_packages"
DESCRIPTION = (
    f"Install Python packages that {execute_code.NAME} does not have. Later runs of this "
    "conversation can import them. It runs no code, and keeps all variables."
)
PACKAGES_DESCRIPTION = 'Names of packages, with versions where needed: ["polars", "duckdb>=1"].'
MAX_PACKAGES = 20
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "packages": {
            "type": "array",
            "items": {"type": "string"},
            "description": PACKAGES_DESCRIPTION,
        }
    },
    "required": ["packages"],
    "additionalProperties": False,
}
_INVALID = f"packages must be a list of 1 to {MAX_PACKAGES} names. Nothing was installed."
_FAILED = "The packages were not installed"
_SHOWN_VERSIONS = 40


async def call(
    interpreter: AnyInterpreter | None, packages: object, *, session_key: str | None = None
) -> ToolReply:
    """Run the tool for an adapter. Nothing is raised but cancellation.

    Args:
        interpreter: Where to install. None means `get_default_interpreter()`.
        packages: What the model wrote.
        session_key: The conversation. None means the current one of `use_session`.
    """
    try:
        names = _check_names(packages)
        if names is None:
            return execute_code.build_not_run_reply(_INVALID)
        chosen = execute_code.get_interpreter(interpreter)
        check_packages_support(chosen.capabilities)
        session = chosen.session(session_key)
        if (refusal := await _ask(chosen.approve, session, names)) is not None:
            return execute_code.build_not_run_reply(refusal)
        versions = await session.install(*names)
    except Exception as error:  # noqa: BLE001 - nothing foreign reaches a framework
        text = execute_code.log_failure(NAME, error, outcome=_FAILED)
        return execute_code.build_not_run_reply(text)
    return ToolReply(_format(names, versions), Execution(session_id=session.id))


def _check_names(packages: object) -> tuple[str, ...] | None:
    if not isinstance(packages, list) or not 1 <= len(packages) <= MAX_PACKAGES:
        return None
    return tuple(packages) if all(isinstance(name, str) for name in packages) else None


async def _ask(approve: Approver | None, session: Session, names: tuple[str, ...]) -> str | None:
    """Ask the approver. Return why the packages are not installed, or None if they may be."""
    if approve is None:
        return None
    code = f"%pip install {shlex.join(names)}"
    request = ApprovalRequest(code, session.key, packages=names)
    decision = await execute_code.ask_approver(approve, request)
    if decision.verdict != "allow":
        reason = f": {decision.reason}" if decision.reason else ""
        return f"{_FAILED}: the user did not approve it{reason}."
    if decision.code not in {None, code}:
        return f"{_FAILED}: the user changed the request, which only code allows."
    return None


def _format(names: tuple[str, ...], versions: Mapping[str, str]) -> str:
    if not versions:
        return f"Already installed: {redact(', '.join(names))}."
    shown = [f"{name} {version}" for name, version in list(versions.items())[:_SHOWN_VERSIONS]]
    more = len(versions) - len(shown)
    rest = f" and {more} more" if more else ""
    return f"Installed: {', '.join(shown)}{rest}. The next run can import them."
