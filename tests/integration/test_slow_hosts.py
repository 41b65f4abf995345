"""Sandboxes on a machine so busy that the host comes late to everything."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from cci_plugins import SandboxLimits

if sys.platform != "linux" or shutil.which("bwrap") is None:
    pytest.skip("bubblewrap is not installed", allow_module_level=True)

from cci_plugins.pools.local.isolation.base import KernelSpec
from cci_plugins.pools.local.isolation.bubblewrap.backend import BwrapIsolation
from cci_plugins.pools.local.isolation.bubblewrap.sandbox import BwrapSandbox

pytestmark = pytest.mark.anyio


async def test_a_self_check_may_end_before_the_host_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    read_child_info = BwrapSandbox._read_child_info

    async def read_late(sandbox: BwrapSandbox, info: int) -> Any:
        await sandbox.child.wait()
        return await read_child_info(sandbox, info)

    monkeypatch.setattr(BwrapSandbox, "_read_child_info", read_late)
    spec = KernelSpec(python=Path(sys.executable), key="00")
    async with asyncio.timeout(60):
        await BwrapIsolation(SandboxLimits()).run_self_check(spec)
