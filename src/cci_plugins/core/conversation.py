"""The conversation that the current context belongs to: its key and its run budget."""

from __future__ import annotations

from contextvars import ContextVar
from threading import Lock
from uuid import UUID

from cci_plugins.errors import ConfigurationError

DEFAULT_KEY = "default"

SessionKey = str | int | UUID
"""A conversation, as the application names it. `7` and `"7"` are the same one."""


def to_key(key: object) -> str:
    """Return the text of a session key.

    Raises:
        ConfigurationError: It is not a `str`, an `int` or a `UUID`.
    """
    if isinstance(key, SessionKey) and not isinstance(key, bool):
        return str(key)
    raise ConfigurationError(
        f"a session key must be a str, an int or a UUID, not {type(key).__name__}",
        hint="pass str(...) of what identifies the conversation",
    )


def is_named(key: object) -> bool:
    """Return whether a key names a conversation. None and empty text do not, and 0 does."""
    return key is not None and key != ""


class RunningSession:
    """A session whose code can wait for a host tool, until that run ends. Any thread may use it.

    A task that a tool starts inherits the context of the tool, and may go on after the run.

    Attributes:
        id: Identifier of the session.
        has_ended: Whether the run has ended, so that nothing waits any longer.
    """

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.has_ended = False


running_sessions: ContextVar[tuple[RunningSession, ...]] = ContextVar(
    "cci_running_sessions", default=()
)
"""The sessions whose code waits for what runs in this context, outermost first."""


def get_running_sessions() -> tuple[RunningSession, ...]:
    """Return the sessions whose code waits for what runs in this context, outermost first."""
    return tuple(one for one in running_sessions.get() if not one.has_ended)


current_key: ContextVar[str | None] = ContextVar("cci_session_key", default=None)


class RunBudget:
    """The number of runs that a model may still start. Any thread may call it.

    Args:
        max_runs: Most runs.
        parent: The budget around this one. Each run here also counts there.
    """

    def __init__(self, max_runs: int, parent: RunBudget | None = None) -> None:
        self.max_runs: int = max_runs if parent is None else min(max_runs, parent.max_runs)
        self._parent = parent
        self._runs = 0
        self._guard = Lock()

    def try_spend(self) -> bool:
        """Count one more run. Return False, and count nothing, if none is left."""
        with self._guard:
            if self._runs >= self.max_runs or (
                self._parent is not None and not self._parent.try_spend()
            ):
                return False
            self._runs += 1
            return True


current_budget: ContextVar[RunBudget | None] = ContextVar("cci_turn", default=None)
