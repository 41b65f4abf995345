"""Approval of code by the application before it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """Code that a model asks to run, or packages that it asks to install.

    Attributes:
        code: The Python that the model wrote. For packages, a line of `%pip install`.
        session_key: Key of the conversation that it belongs to.
        packages: The packages to install, or empty. They cannot be edited.
    """

    code: str
    session_key: str
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of the application's approver.

    Attributes:
        verdict: `allow` runs the code, `deny` does not.
        code: Code to run instead, when the approver edited it.
        reason: Text for the model when the verdict is `deny`.

    Example:
        ```python
        from cci_plugins import ApprovalRequest, Decision

        async def approve(request: ApprovalRequest) -> Decision:
            if "subprocess" in request.code:
                return Decision("deny", reason="do not start processes")
            return Decision("allow")
        ```
    """

    verdict: Literal["allow", "deny"]
    code: str | None = None
    reason: str | None = None


Approver = Callable[[ApprovalRequest], Awaitable[Decision]]
"""An async function of the application that is asked before each run that a model starts."""
