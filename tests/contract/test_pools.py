"""Tests of the pool contract that ships in `cci_plugins.testing`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from cci_plugins.common import event_loop
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.models import Execution, OutputEvent
from cci_plugins.pools.base import OutputHandler, SessionPool
from cci_plugins.pools.local.pool import LocalSessionPool
from cci_plugins.testing import FakeSessionPool, check_session_pool, session_pools

pytestmark = pytest.mark.anyio


def check_pool(pool: SessionPool) -> dict[str, str | None]:
    async def check() -> dict[str, str | None]:
        with anyio.fail_after(100):
            async with pool:
                return await check_session_pool(pool)

    return event_loop.submit(check).result()


@pytest.mark.slow
@pytest.mark.quick("bwrap")
@pytest.mark.parametrize("isolation", ["bwrap", "landlock", "process"])
def test_the_embedded_pool_keeps_the_contract(isolation: str) -> None:
    if isolation == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    if isolation != "process" and sys.platform != "linux":
        pytest.skip("an isolation backend of Linux")
    pool = LocalSessionPool(isolation=isolation, preload=())  # type: ignore[arg-type] # from the list
    assert {check: fault for check, fault in check_pool(pool).items() if fault} == {}


class LateOutputPool(LocalSessionPool):
    """A pool that claims to stream, but emits all output when the code has ended."""

    async def execute(
        self, *arguments: Any, on_output: OutputHandler | None = None, **options: Any
    ) -> Execution:
        execution = await super().execute(*arguments, **options)
        if on_output is not None and execution.stdout:
            on_output(OutputEvent("stdout", execution.stdout))
        return execution


@pytest.mark.slow
def test_the_contract_tests_reject_a_pool_whose_output_arrives_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks = (session_pools.state_is_kept, session_pools.output_streams_while_code_runs)
    monkeypatch.setattr(session_pools, "_CHECKS", checks)
    report = check_pool(LateOutputPool(preload=()))
    found = {check: fault for check, fault in report.items() if fault}
    assert list(found) == ["output_streams_while_code_runs"]
    assert "before the end" in str(found)


class BrokenPool(FakeSessionPool):
    """A pool that breaks every part of the contract."""

    async def download(self, session_id: str, name: str) -> AsyncIterator[bytes]:
        yield b"always"

    async def list_files(self, session_id: str) -> list:  # type: ignore[type-arg]
        raise CodeInterpreterError("no")


def test_the_contract_tests_reject_a_pool_that_breaks_the_contract() -> None:
    report = check_pool(BrokenPool())
    assert len(report) == 20
    assert all(report.values()), report
