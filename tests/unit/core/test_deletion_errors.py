"""A pool that fails while a busy session is deleted raises its own error, not a group."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import pytest
from typing_extensions import override

from cci_plugins import CodeInterpreter, Execution
from cci_plugins.errors import PoolError
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio


class Failing(FakeSessionPool):
    """Pool whose run goes on, and whose deletion fails once."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.deletions = anyio.Event(), 0

    @override
    async def execute(self, session_id: str, code: str, **_options: Any) -> Execution:
        self.started.set()
        await anyio.sleep(1)
        return Execution()

    @override
    async def delete_session(self, session_id: str) -> None:
        self.deletions += 1
        if self.deletions == 1:
            raise PoolError("broken")


async def test_the_error_of_a_deletion_during_a_run_is_raised_as_itself() -> None:
    pool = Failing()
    with anyio.fail_after(20):
        async with CodeInterpreter(pool) as interpreter:
            session = interpreter.session("a")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(session.run_code, "1", timeout=timedelta(seconds=9)))
                while not pool.started.is_set():
                    await anyio.sleep(0.01)
                with pytest.raises(PoolError, match="broken"):
                    await session.delete()
