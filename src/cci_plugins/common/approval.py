"""Asking the host before code runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """Code that wants to run.

    Attributes:
        code: The Python a model wrote.
        session_key: The conversation it belongs to.
    """

    code: str
    session_key: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The host's answer.

    Attributes:
        verdict: `allow` runs the code, `deny` does not.
        code: Runs in place of what was asked, when the host edited it.
        reason: Told to the model when denied.
    """

    verdict: Literal["allow", "deny"]
    code: str | None = None
    reason: str | None = None


Approver = Callable[[ApprovalRequest], Awaitable[Decision]]
