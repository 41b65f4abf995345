"""The host's end of tool calls from a session, as a pool sees it: `ToolHost` and its values.

Code in a session may call functions that the host passed for this run (`core/host_tools`). A pool
brings the calls out of its sessions and the answers back. It knows neither the functions nor the
frameworks: it gets one `ToolHost` for a run and awaits `ToolHost.call` for each call.

What a pool must do:

- Show `ToolHost.specs` to the code, for this run only.
- Give each call an id. Drop an answer that comes after the call's run has ended.
- Cancel the calls in progress when the run ends for any reason.
- Leave out of the run's time-out what `ToolHost.call` took, at most `ToolBounds.wait`.
- Raise `build_unsupported_error` before any code runs if it cannot do that.

What a pool need not do: `ToolHost.call` checks name, arguments, approval, sizes and time, because
the code can forge every message. A pool bounds what it reads before it parses.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from cci_plugins.common.limits import Limits
from cci_plugins.errors import ConfigurationError

MAX_NAME_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class ToolParameter:
    """One parameter of a tool, as the signature in the session shows it.

    Attributes:
        name: Its name in the call. It may be no Python identifier.
        annotation: Its type, as Python source, for example `list[str]`.
        default: Its default as Python source, `...` if unknown. None for a required one.
    """

    name: str
    annotation: str
    default: str | None = None


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool, as code in a session sees it. It holds text only, so it can be sent.

    Attributes:
        name: A Python identifier. The code calls `tools.NAME(...)`.
        parameters: Its parameters in the order of the signature, required ones first.
        returns: Type of its result, as Python source.
        documentation: Text for `help(tools.NAME)`.
        accepts_more: Whether it takes arguments of other names too.
    """

    name: str
    parameters: tuple[ToolParameter, ...] = ()
    returns: str = "Any"
    documentation: str = ""
    accepts_more: bool = False


@dataclass(frozen=True, slots=True)
class ToolBounds:
    """Bounds of the tool calls of one run, from `Limits`.

    Attributes:
        calls: Most calls.
        at_once: Most calls in progress. Further ones wait.
        call_bytes: Most bytes of the arguments of one call, and of its result, as JSON.
        total_bytes: Most bytes of all arguments and results.
        call_timeout: Longest call, with its approval.
        wait: Longest time with a call in progress.
    """

    calls: int
    at_once: int
    call_bytes: int
    total_bytes: int
    call_timeout: timedelta
    wait: timedelta

    @classmethod
    def from_limits(cls, limits: Limits) -> Self:
        """Return the bounds of an interpreter's runs."""
        return cls(
            calls=limits.tool_calls,
            at_once=limits.tool_calls_at_once,
            call_bytes=limits.tool_call_bytes,
            total_bytes=limits.tool_total_bytes,
            call_timeout=limits.tool_call_timeout,
            wait=limits.tool_timeout,
        )


class ToolHost(ABC):
    """What answers the tool calls of one run.

    Attributes:
        specs: The tools that the code may call.
        bounds: Bounds of this run.
    """

    specs: tuple[ToolSpec, ...]
    bounds: ToolBounds

    @abstractmethod
    async def call(self, name: str, arguments: str) -> str:
        """Answer one call. Several may be in progress. Cancelling it cancels the tool.

        Args:
            name: The tool, as the code named it. It may be anything.
            arguments: The arguments as JSON text, of at most `ToolBounds.call_bytes`. The text
                is what the code sent, so it may be anything.

        Returns:
            The result as JSON text, of at most `ToolBounds.call_bytes`.

        Raises:
            ToolCallError: The call was refused or has failed. Its `kind` selects the exception
                in the session, and its message is for the code.
        """


class WaitClock:
    """The time in which at least one call is in progress, up to a limit.

    Args:
        limit: Most seconds that count.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._active = 0
        self._since = 0.0
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """The time so far."""
        running = time.monotonic() - self._since if self._active else 0.0
        return min(self._before + running, self._limit)

    @property
    def remaining(self) -> float:
        """Seconds that the calls in progress may still add. 0 without any."""
        return self._limit - self.seconds if self._active else 0.0

    def begin(self) -> None:
        """Note the start of a call."""
        if not self._active:
            self._since = time.monotonic()
        self._active += 1

    def end(self) -> None:
        """Note the end of a call."""
        self._active -= 1
        if not self._active:
            self._before += time.monotonic() - self._since


def build_unsupported_error(
    pool: str, reason: str = "they return text only, and no calls"
) -> ConfigurationError:
    """Build the error of a pool whose sessions cannot call the host's tools.

    Args:
        pool: Short name of the pool.
        reason: Why, as a clause.
    """
    return ConfigurationError(
        f"sessions of the pool {pool!r} cannot call tools of the host: {reason}; "
        "the code did not run",
        hint="use the embedded pool, or a custom pool with this package's image, "
        "or run the code without tools",
    )
