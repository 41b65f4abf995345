"""Checks of what an application does to a session: variables, interrupt and restart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta

import anyio

from cci_plugins.common.environment import build_session_environment
from cci_plugins.errors import ConfigurationError
from cci_plugins.models import Execution
from cci_plugins.pools.base import SessionPool
from cci_plugins.pools.package_pools import PackageExchange, RemotePackages

LIMIT = timedelta(seconds=60)
_SHOW = "import os, time\nos.environ.get('CHECK_A'), os.environ.get('CHECK_B'), time.timezone"


def expect(*, condition: bool, message: str) -> None:
    """Raise AssertionError with a message, unless the condition holds."""
    if not condition:
        raise AssertionError(message)


async def run_code(
    pool: SessionPool, session_id: str, code: str, timeout: timedelta = LIMIT
) -> Execution:
    """Run code in a session."""
    return await pool.execute(session_id, code, timeout=timeout)


async def code_sees_the_given_variables(pool: SessionPool, session_id: str) -> None:
    """Check that code sees the variables of its run, if the pool's capabilities promise it."""
    if not pool.capabilities.env:
        return

    async def show(**values: str) -> str | None:
        env = build_session_environment(values)
        execution = await pool.execute(session_id, _SHOW, timeout=LIMIT, env=env)
        return execution.text

    text = await show(CHECK_A="1", TZ="XYZ+2")
    expect(condition=text == "('1', None, 7200)", message=f"the code saw {text!r}")
    await run_code(pool, session_id, "os.environ['CHECK_A'] = 'own'")
    text = await show(CHECK_A="1", TZ="XYZ+2")
    expect(condition=text == "('own', None, 7200)", message=f"the code's own value: {text!r}")
    text = await show(CHECK_B="2", TZ="XYZ+2")
    expect(condition=text == "(None, '2', 7200)", message=f"after a change: {text!r}")
    await pool.delete_session(session_id)
    text = await show(CHECK_B="2", TZ="XYZ+2")
    expect(condition=text == "(None, '2', 7200)", message=f"after a replacement: {text!r}")


async def an_interrupt_keeps_the_state(pool: SessionPool, session_id: str) -> None:
    """Check that an interrupt ends the run alone, unless the pool refuses it at once."""
    await run_code(pool, session_id, "x = 41")
    try:
        found = await pool.interrupt(session_id)
    except ConfigurationError:
        return
    expect(condition=found is False, message="it interrupted a run that does not exist")
    ended: list[Execution] = []

    async def run() -> None:
        ended.append(await run_code(pool, session_id, "import time\ntime.sleep(50)"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        while not ended and not await pool.interrupt(session_id):  # noqa: ASYNC110 - it polls
            await anyio.sleep(0.1)
    error = ended[0].error
    name = "none" if error is None else error.name
    expect(condition=name == "KeyboardInterrupt", message=f"the run has the error {name}")
    expect(condition=ended[0].state == "kept", message=f"state {ended[0].state}")
    execution = await run_code(pool, session_id, "x + 1")
    expect(condition=execution.text == "42", message=f"x + 1 gave {execution.text!r}")


async def a_restart_keeps_the_files(pool: SessionPool, session_id: str) -> None:
    """Check that a restart ends variables and keeps files, unless the pool cannot do it."""

    async def content() -> AsyncIterator[bytes]:
        yield b"in"

    await pool.upload(session_id, "in.txt", content())
    await run_code(pool, session_id, "x = 1\nopen('out.txt', 'w').write('out')")
    has_restarted = await pool.restart_session(session_id)
    code = "'x' in dir(), open('in.txt').read() + open('out.txt').read()"
    execution = await run_code(pool, session_id, code)
    wanted = f"({not has_restarted}, 'inout')"
    expect(condition=execution.text == wanted, message=f"afterwards {execution.text!r}")
    expect(condition=execution.state == "kept", message=f"state {execution.state}")


async def packages_are_installed_whole_or_not_at_all(pool: SessionPool, session_id: str) -> None:
    """Check that a pool refuses packages that it cannot install, and keeps the session."""
    await run_code(pool, session_id, "x = 41")
    if isinstance(pool, PackageExchange):
        await _expect_refusal(_send_absent_wheel(pool, session_id), "a wheel that was not sent")
    if not isinstance(pool, RemotePackages):
        name = "name @ https://example.com/name.whl"
        await _expect_refusal(pool.install_packages(session_id, [name]), name)
    execution = await run_code(pool, session_id, "x + 1")
    expect(condition=execution.text == "42", message=f"x + 1 gave {execution.text!r}")


async def _send_absent_wheel(pool: PackageExchange, session_id: str) -> None:
    answer = await pool.exchange_packages(session_id, {})
    wheel = {"name": "absent-1-py3-none-any.whl", "size": 1, "sha256": "0" * 64}
    message = {"upload": answer.get("upload"), "wheels": [wheel]}
    await pool.exchange_packages(session_id, message)


async def _expect_refusal(call: Awaitable[object], what: str) -> None:
    try:
        await call
    except ConfigurationError:
        return
    raise AssertionError(f"the pool installed {what}")
