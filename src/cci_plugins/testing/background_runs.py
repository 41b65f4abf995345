"""Check of runs in the background, for every pool."""

from __future__ import annotations

import anyio

from cci_plugins.core.background_run import BackgroundRun
from cci_plugins.core.session import Session
from cci_plugins.core.session_handle import SessionHandle
from cci_plugins.core.session_host import SessionHost
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.base import SessionPool

from .session_control import LIMIT, expect, run_code

_LONG = "import time\nx = 40\nprint('begun', flush=True)\ntime.sleep(2)\nx += 1\nx"
_ENDLESS = "print('begun', flush=True)\nwhile True: time.sleep(0.05)"


def open_session(pool: SessionPool, session_id: str) -> Session:
    """Return a session of a pool, as an interpreter has it."""
    handle = SessionHandle(SessionHost(pool, owns_pool=False), "check", session_id)
    return Session(handle, on_delete=lambda: None)


async def a_background_run_outlives_its_call(pool: SessionPool, session_id: str) -> None:
    """Check runs in the background, or that the pool refuses them before their code runs."""
    session = open_session(pool, session_id)
    try:
        first = await session.start_code(_LONG, timeout=LIMIT)
    except ConfigurationError:
        refuses = pool.capabilities.background_runs is not True
        expect(condition=refuses, message="the pool refused what its capabilities promise")
        execution = await run_code(pool, session_id, "'x' in dir()")
        expect(condition=execution.text == "False", message="the refused code ran")
        return
    promises = pool.capabilities.background_runs is True
    expect(condition=promises, message="the pool did what its capabilities exclude")
    second = await session.start_code("x += 1\nx", timeout=LIMIT)
    await _wait_until_begun(first)
    expect(condition=await second.wait(0) is None, message="a second run did not wait")
    execution = await first.wait()
    expect(condition=execution.text == "41", message=f"the run gave {execution.text!r}")
    execution = await second.wait()
    expect(condition=execution.text == "42", message=f"the second run gave {execution.text!r}")
    endless = await session.start_code(_ENDLESS, timeout=LIMIT)
    await _wait_until_begun(endless)
    expect(condition=await endless.cancel(), message=f"cancelling: the run {endless.status}")
    execution = await run_code(pool, session_id, "x")
    expect(condition=execution.text == "42", message=f"after a cancel x is {execution.text!r}")


async def _wait_until_begun(run: BackgroundRun) -> None:
    """Wait for output of a run that goes on."""
    with anyio.move_on_after(LIMIT.total_seconds()):
        while run.status == "running" and not run.output().text:  # noqa: ASYNC110 - it polls
            await anyio.sleep(0.05)
    shown = run.output().text
    is_seen = run.status == "running" and "begun" in shown
    expect(condition=is_seen, message=f"the run is {run.status}, with the output {shown!r}")
