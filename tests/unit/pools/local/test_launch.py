"""Launches of the embedded pool that are cancelled: no sandbox is left behind."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from cci_plugins.pools.local.pool import LocalSessionPool

pytestmark = pytest.mark.anyio


class Sandbox:
    """A sandbox that takes its time to end."""

    ends = 0

    async def kill(self) -> None:
        await anyio.sleep(0.01)
        self.ends += 1


class Isolation:
    """A backend whose launch takes a moment, and cannot be interrupted halfway."""

    name = "fake"

    def __init__(self) -> None:
        self.sandbox = Sandbox()
        self.begun = anyio.Event()

    async def launch(self, _: object) -> Sandbox:
        self.begun.set()
        await anyio.sleep(0.05)
        return self.sandbox


async def test_a_launch_that_a_cancel_scope_ends_leaves_no_sandbox() -> None:
    isolation: Any = Isolation()
    pool = LocalSessionPool()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool._launch, isolation)
        await isolation.begun.wait()
        tasks.cancel_scope.cancel()
    assert isolation.sandbox.ends == 1
