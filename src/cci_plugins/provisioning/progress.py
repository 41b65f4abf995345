"""What a run tells while it works, and its result at the end."""

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
    """One thing that happened.

    Attributes:
        step: What it is about: a stable name, such as `session pool`.
        state: `working` when it begins, `waiting` while it lasts; `note` for what is to be known;
            else how it ended.
        message: One line for people.
        elapsed: Since the step began.
    """

    step: str
    state: State
    message: str
    elapsed: timedelta = timedelta()


ProgressHandler = Callable[[Progress], None]


class Run(Generic[T]):
    """Work that tells its progress: iterate it, then read `result`; or just await `finish()`.

    It may be stopped at any time, by cancelling or by leaving the loop: what Azure has by then, the
    next run finds.
    """

    def __init__(self, work: Callable[[ProgressHandler], Awaitable[T]]) -> None:
        self._work = work
        self._result: list[T] = []

    @property
    def result(self) -> T:
        """What came out.

        Raises:
            ProvisioningError: It has not ended.
        """
        if not self._result:
            raise ProvisioningError(
                "this has not ended", hint="iterate it to its end, or await finish()"
            )
        return self._result[0]

    async def finish(self) -> T:
        """Work to the end."""
        async for _ in self:
            pass
        return self.result

    async def __aiter__(self) -> AsyncIterator[Progress]:
        """Work, and tell."""
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
