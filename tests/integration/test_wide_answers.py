"""Files through a gateway, whose own client reads answers before they are cut for a model."""

from __future__ import annotations

import sys
from datetime import timedelta

import anyio
import pytest

from cci_plugins import CodeInterpreter, Execution, LocalSessionPool
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool

from ._server import KEY, serving

pytest.importorskip("mcp")
if sys.platform != "linux":
    pytest.skip("the backends exist on Linux only", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
MAKE = "import os\ncontent = os.urandom(400_000)\nopen('big.bin', 'wb').write(content)\nNone"


class CountingPool(PlatformSessionPool):
    """A client that counts the runs by which files travel."""

    runs = 0

    async def _run_text_only(self, session_id: str, code: str, limit: timedelta) -> Execution:
        self.runs += 1
        return await super()._run_text_only(session_id, code, limit)


async def test_a_file_leaves_a_session_through_a_gateway_in_few_runs() -> None:
    from cci_plugins.server import SignedEnvironments

    environments = SignedEnvironments(b"a secret of the tests, 32 bytes or more")
    local = LocalSessionPool(preload=(), ready_sessions=0)
    with anyio.fail_after(110):
        async with serving(local, environments=environments, rest=False) as url:
            pool = CountingPool(url, key=KEY)
            async with CodeInterpreter(pool) as interpreter:
                session = interpreter.session("a")
                await session.run_code(MAKE)
                content = await session.files.download("big.bin")
                assert 0 < pool.runs < 10
                await session.files.upload(content, name="again.bin")
                execution = await session.run_code("open('again.bin', 'rb').read() == content")
                assert execution.text == "True"
