"""Background runs, with a real kernel."""

from __future__ import annotations

import anyio
import pytest

from cci_plugins import CodeInterpreter, HostTool, Limits, LocalSessionPool, Secret, Session
from cci_plugins.core.background_run import BackgroundRun
from cci_plugins.errors import ConfigurationError

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
PLANTED = "tok-planted-1a2b3c4d5e6f"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def wait_for_text(run: BackgroundRun, text: str) -> int:
    with anyio.fail_after(60):
        while text not in run.output().text:
            await anyio.sleep(0.02)
    return run.output().end


async def start_endless(session: Session) -> BackgroundRun:
    run = await session.start_code("print('on', flush=True)\nwhile True: pass")
    await wait_for_text(run, "on")
    return run


async def test_a_background_run_of_a_real_session_lasts_longer_than_a_run() -> None:
    env = {"PLANTED": Secret(PLANTED)}
    pool = LocalSessionPool(ready_sessions=0, preload=(), environment=env)
    async with CodeInterpreter(pool, limits=Limits(execution_timeout=1)) as interpreter:
        session = interpreter.session("a")
        gate, runs = anyio.Event(), list[BackgroundRun]()

        async def wait_for_host() -> str:
            await gate.wait()
            with pytest.raises(ConfigurationError, match="the tool cannot wait for it"):
                await runs[0].wait()
            with pytest.raises(ConfigurationError, match="cannot run more code"):
                await session.start_code("1")
            return "open"

        tool = HostTool("gate", "Wait.", {"type": "object", "properties": {}}, wait_for_host)
        code = f"import time\nx = 1\nprint('{PLANTED[:8]}' + '{PLANTED[8:]}', flush=True)\n"
        code += "print('begun', flush=True)\ntime.sleep(2)\nprint(tools.gate(), flush=True)\n6 * 7"
        run = await session.start_code(code, tools=[tool])
        runs.append(run)
        end = await wait_for_text(run, "begun")
        assert PLANTED not in run.output().text
        assert run.status == "running"
        assert await run.wait(0) is None
        gate.set()
        execution = await run.wait()
        assert (execution.status, execution.results[0].text) == ("succeeded", "42"), execution
        assert run.output(end).text == "open\n42\n"
        assert [call.name for call in execution.tool_calls] == ["gate"]

        run = await session.start_code("while True: pass", timeout=1)
        assert (await run.wait()).status == "timed_out"
        run = await start_endless(session)
        assert await run.cancel() is True
        assert (await session.run_code("x")).text == "1"
        run = await start_endless(session)
        assert await session.interrupt() is True
        assert run.status == "failed"
        run = await start_endless(session)
        await session.delete()
        assert (await run.wait()).status == "died"
        run = await start_endless(session)
    with anyio.fail_after(30):
        assert (await run.wait()).status == "died"
