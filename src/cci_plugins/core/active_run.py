"""The run in progress of a session, and its end when the session is deleted."""

from __future__ import annotations

import anyio

from cci_plugins.pools.base import SessionPool

STOP_SECONDS = 1.0  # the time in which a pool can end the run and return its output


class ActiveRun:
    """The run in progress of a session.

    Attributes:
        scope: Cancels it.
        done: Set when it has ended.
        is_deleted: Its session was deleted.
        is_restarted: Its session was restarted.
    """

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.is_deleted = False
        self.is_restarted = False

    async def end(self) -> None:
        """Wait for the end of a run whose session is being deleted, and cancel it if it goes on."""
        self.is_deleted = True
        with anyio.move_on_after(STOP_SECONDS):
            await self.done.wait()
        self.scope.cancel()


async def delete_during(run: ActiveRun, pool: SessionPool, session_id: str) -> None:
    """End a session whose code runs. The pool's error is raised as itself, not in a group."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.end)
        try:
            await pool.delete_session(session_id)
        except Exception as error:  # noqa: BLE001 - raised again outside the task group
            failure = error
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
