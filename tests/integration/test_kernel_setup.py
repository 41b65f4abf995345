"""What sets up a kernel arrives compiled, and as source where another Python would run it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cci_plugins.pools.local import kernel
from cci_plugins.pools.local.pool import LocalSessionPool

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
LIMIT = timedelta(seconds=30)
CODE = """
import sys
print(sorted(name for name in globals() if name in {'ns', 'setup', 'parts', 'part'}))
print(get_ipython().kernel.log.level, type(sys.stdout).__name__)
"""


@pytest.mark.parametrize("magic", [None, "00000000"], ids=["the same Python", "another Python"])
async def test_a_kernel_is_set_up_and_no_name_is_left(
    magic: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = kernel.build_session_bytecode
    if magic is not None:
        broken = {"magic": magic, "parts": ""}
        monkeypatch.setattr(kernel, "build_session_bytecode", lambda *_: broken)
    async with LocalSessionPool(ready_sessions=0, preload=()) as pool:
        execution = await pool.execute("session-of-the-setup", CODE, timeout=LIMIT)

    assert execution.stdout == "[]\n30 SessionStream\n"
    assert len(build(*kernel._SETUP_MODULES)["parts"]) > 10_000
