"""Environment variables, restart, interrupt and usage of sessions on pools that are not local."""

from __future__ import annotations

import logging
import sys
from typing import Any

import anyio
import pytest

from cci_plugins import CodeInterpreter, Limits, LocalSessionPool, Secret, Session
from cci_plugins.errors import ConfigurationError, FileTooLargeError

from ._emulated import emulated
from .test_session_control import TOKEN, run_until_started, show

pytest.importorskip("mcp")
if sys.platform != "linux":
    pytest.skip("the backends exist on Linux only", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SLOW = "import time\nprint('go', flush=True)\ntime.sleep(2)"
KINDS = [{"kind": "platform"}, {"kind": "managed"}, {"kind": "custom"}]


@pytest.mark.quick("platform", "container")
@pytest.mark.parametrize("options", KINDS, ids=["platform", "managed", "container"])
async def test_a_remote_session_has_variables_and_can_restart(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    local = LocalSessionPool(preload=(), ready_sessions=0)
    with anyio.fail_after(110):
        async with emulated(local, max_sessions=9, **options) as azure:
            pool = azure.client(limits=Limits(pieces_bytes=1_000_000))
            async with CodeInterpreter(pool, env={"COLOUR": "blue"}) as interpreter:
                session = interpreter.session("a", env={"TOKEN": Secret(TOKEN)})
                await check_variables(session, caplog)
                await check_restart(session)
                assert await session.interrupt() is False
                if options["kind"] == "custom":
                    execution = await run_until_started(session, SLOW, session.interrupt)
                    assert (execution.status, execution.state) == ("failed", "kept")
                    assert str(execution.error).startswith("ErrorInfo(name='KeyboardInterrupt'")
                else:
                    await check_refusals(session)


async def check_variables(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    assert await show(session, "COLOUR") == "blue blue"
    leak = "print(os.environ['TOKEN'], repr(os.environ))\n1 / 0"
    execution = await session.run_code(leak)
    assert "ZeroDivisionError" in str(execution.error)
    assert TOKEN not in f"{execution}{execution.stdout}{caplog.text}"
    assert execution.execution_count == 2
    assert execution.usage is not None


async def check_restart(session: Session) -> None:
    await session.files.upload(b"in", name="in.txt")
    await session.run_code("x = 1\nopen('out.txt', 'w').write('out')")
    await session.restart()
    after = await session.run_code(
        "import os\nprint('x' in dir(), open('in.txt').read(), open('out.txt').read(), "
        "os.environ['COLOUR'], len(os.environ['TOKEN']))"
    )
    assert after.stdout == f"False in out blue {len(TOKEN)}\n"
    assert after.state == "kept"
    assert after.notes[-1].startswith("the session was restarted")


async def check_refusals(session: Session) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session.run_code, SLOW)
        with pytest.raises(ConfigurationError, match="cannot interrupt a run"):
            await interrupt_when_started(session)
        with pytest.raises(ConfigurationError, match="cannot interrupt a run"):
            await session.restart()
    large = "y = 2\nopen('large', 'w').write('x' * 1_000_001)"
    assert (await session.run_code(large)).error is None
    if not await session._handle.host.pool.has_files_api(session.id):
        with pytest.raises(FileTooLargeError):
            await session.restart()
        assert (await session.run_code("y")).text == "2"


async def interrupt_when_started(session: Session) -> None:
    while await session.interrupt() is False:
        await anyio.sleep(0.02)
