"""Launches of the embedded pool that are cancelled: no sandbox is left behind."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from cci_plugins.errors import IsolationError
from cci_plugins.pools.local import pool as local_pool
from cci_plugins.pools.local.isolation.base import KernelSpec
from cci_plugins.pools.local.kernel import Kernel
from cci_plugins.pools.local.launching import launch
from cci_plugins.pools.local.pool import LocalSessionPool

pytestmark = pytest.mark.anyio


class Sandbox:
    """A sandbox that takes its time to end."""

    ends = 0

    async def kill(self) -> None:
        await anyio.sleep(0.01)
        self.ends += 1

    @asynccontextmanager
    async def kill_on_failure(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.kill()
            raise


class Isolation:
    """A backend whose launch takes a moment, and cannot be interrupted halfway."""

    name, folder = "bwrap", "/mnt/data"

    def describe(self) -> str:
        return "a fake"

    def __init__(self) -> None:
        self.sandbox = Sandbox()
        self.begun = anyio.Event()

    async def launch(self, _: object) -> Sandbox:
        self.begun.set()
        await anyio.sleep(0.05)
        return self.sandbox


async def test_a_launch_that_a_cancel_scope_ends_leaves_no_sandbox() -> None:
    isolation: Any = Isolation()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(launch, isolation, KernelSpec(Path(sys.executable), key=""))
        await isolation.begun.wait()
        tasks.cancel_scope.cancel()
    assert isolation.sandbox.ends == 1


async def test_a_launch_that_is_cancelled_again_and_again_leaves_no_sandbox() -> None:
    isolation: Any = Isolation()
    task = asyncio.create_task(launch(isolation, KernelSpec(Path(sys.executable), key="")))
    await isolation.begun.wait()
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0.001)
    await asyncio.wait((task,))
    assert isolation.sandbox.ends == 1


@pytest.mark.parametrize("outcome", ["passes", "fails", "chooses another"])
async def test_the_first_kernel_is_given_nothing_before_the_self_check_has_passed(
    outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolation, started, events = Isolation(), anyio.Event(), []

    async def start(sandbox: object, *_: object) -> object:
        events.append("kernel is set up" if sandbox is isolation.sandbox else "another one")
        started.set()
        raise IsolationError("it does not matter any more")

    async def choose(*_: object) -> Any:
        await isolation.begun.wait()  # at the same time
        await anyio.sleep(0.1)
        events.append("check ends")
        if outcome == "fails":
            raise IsolationError("the sandbox failed its self-check")
        if outcome == "passes":
            return isolation
        other = Isolation()
        other.name = "landlock"
        return other

    monkeypatch.setattr(local_pool, "choose", choose)
    monkeypatch.setattr(local_pool, "get_first_choice", lambda *_: isolation)
    monkeypatch.setattr(Kernel, "start", start)
    pool = LocalSessionPool(ready_sessions=0)
    pool.expect_session()
    if outcome == "fails":
        with pytest.raises(IsolationError, match="failed its self-check"):
            await pool.start()
    else:
        await pool.start()
    if outcome == "passes":
        await started.wait()
        assert events == ["check ends", "kernel is set up"]
    else:
        assert events == ["check ends"]
        assert isolation.sandbox.ends == 1
    await pool.aclose()


async def test_a_pool_that_no_session_uses_launches_no_kernel_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    isolation: Any = Isolation()

    async def choose(*_: object) -> Any:
        return isolation

    monkeypatch.setattr(local_pool, "choose", choose)
    monkeypatch.setattr(local_pool, "get_first_choice", lambda *_: isolation)
    pool = LocalSessionPool(ready_sessions=0)
    await pool.start()
    await pool.aclose()
    assert not isolation.begun.is_set()
