"""One check of `cci doctor`, and the finding made from its outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from .context import Context
from .findings import Finding, Outcome


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to find out.

    Attributes:
        id: Its name.
        look: Finds it out. What it raises of this package is a failure.
        fix: What to do about a failure that does not say so itself.
        after: Checks without whose success it would say nothing.
        limit: The longest it may take.
    """

    id: str
    run: Callable[[Context], Awaitable[Outcome]]
    fix: str
    requires: tuple[str, ...] = ()
    limit: timedelta = timedelta(seconds=60)


def build_finding(check: Check, outcome: Outcome, took: float) -> Finding:
    """An outcome as it is told."""
    fix = outcome.fix or (check.fix if outcome.status in {"failed", "unknown"} else "")
    return Finding(check.id, outcome.status, outcome.message, fix, timedelta(seconds=took))
