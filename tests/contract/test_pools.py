"""Every pool keeps the contract that ships in `cci_plugins.testing`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator

import anyio
import pytest

from cci_plugins.common import event_loop
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.pools.base import SessionPool
from cci_plugins.pools.local.pool import LocalSessionPool
from cci_plugins.testing import FakeSessionPool, check_session_pool

pytestmark = pytest.mark.anyio


def report_of(pool: SessionPool) -> dict[str, str | None]:
    async def check() -> dict[str, str | None]:
        with anyio.fail_after(100):
            async with pool:
                return await check_session_pool(pool)

    return event_loop.submit(check).result()


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["bwrap", "landlock", "process"])
def test_the_embedded_pool_keeps_the_contract(isolation: str) -> None:
    if isolation == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    if isolation != "process" and sys.platform != "linux":
        pytest.skip("a Linux fence")
    pool = LocalSessionPool(isolation=isolation, preload=())  # type: ignore[arg-type] # from the list
    assert {check: fault for check, fault in report_of(pool).items() if fault} == {}


class DeafPool(FakeSessionPool):
    """A pool that keeps nothing of the contract."""

    async def download(self, session_id: str, name: str) -> AsyncIterator[bytes]:
        yield b"always"

    async def list_files(self, session_id: str) -> list:  # type: ignore[type-arg]
        raise CodeInterpreterError("no")


def test_the_contract_tests_find_a_pool_that_does_not_keep_it() -> None:
    report = report_of(DeafPool())
    assert len(report) == 11
    assert all(report.values()), report
