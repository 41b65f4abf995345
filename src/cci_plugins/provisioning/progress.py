"""Progress and result of a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, Literal, TypeVar

import anyio

from cci_plugins.errors import ProvisioningError

T = TypeVar("T")
State = Literal["working", "waiting", "created", "updated", "kept", "removed", "note", "done"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One event of a run.

    Attributes:
        step: Stable name of the step, such as `session pool`.
        state: `working` at its start, `waiting` while it runs, `note` for a note to the user,
            and else its outcome.
        message: One line for people.
        elapsed: Time since the step began.
    """

    step: str
    state: State
    message: str
    elapsed: timedelta = timedelta()


ProgressHandler = Callable[[Progress], None]


class Run(Generic[T]):
    """Work that reports its progress: iterate it, then read `result`. Or await `finish()`.

    You can stop it at any time, by cancelling it or by leaving the loop. The next run finds what
    Azure has by then.

    Args:
        work: The work. It gets the function that takes each progress.
    """

    def __init__(self, work: Callable[[ProgressHandler], Awaitable[T]]) -> None:
        self._work = work
        self._result: list[T] = []

    @property
    def result(self) -> T:
        """The result of the work.

        Raises:
            ProvisioningError: The run is not finished.
        """
        if not self._result:
            raise ProvisioningError(
                "the run is not finished", hint="iterate it to its end, or await finish()"
            )
        return self._result[0]

    async def finish(self) -> T:
        """Run to the end and return the result."""
        async for _ in self:
            pass
        return self.result

    async def __aiter__(self) -> AsyncIterator[Progress]:
        """Run, and yield each progress."""
        queue: asyncio.Queue[Progress | None] = asyncio.Queue()
        task = asyncio.ensure_future(self._work(queue.put_nowait))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (progress := await queue.get()) is not None:
                yield progress
            self._result = [task.result()]
        finally:
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
