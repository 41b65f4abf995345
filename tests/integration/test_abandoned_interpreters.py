"""An interpreter that nobody holds warns, and its processes end."""

from __future__ import annotations

import gc
from pathlib import Path

import anyio
import pytest

from cci_plugins import CodeInterpreter, LocalSessionPool, sync

from ._processes import list_children

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="lists processes of Linux")
async def test_an_interpreter_that_nobody_holds_warns_and_ends_its_processes() -> None:
    gc.collect()
    before = list_children()
    interpreter = CodeInterpreter(LocalSessionPool(ready_sessions=1, preload=()))
    session = interpreter.session("alice")
    await session.run_code("x = 41")
    del interpreter
    gc.collect()
    assert (await session.run_code("x + 1")).text == "42"  # a session holds what it needs
    assert list_children() - before  # one of an earlier test may have ended meanwhile
    del session
    text = "unclosed CodeInterpreter of the pool 'local'"
    with pytest.warns(ResourceWarning, match=text) as found, anyio.fail_after(30):  # noqa: PT031
        while not found:  # the package's event loop holds the last call a moment longer
            gc.collect()
            await anyio.sleep(0.05)
    with anyio.fail_after(30):
        while list_children() - before:
            await anyio.sleep(0.05)


async def test_a_closed_or_unused_interpreter_does_not_warn() -> None:
    async with CodeInterpreter(LocalSessionPool(ready_sessions=0, preload=())) as interpreter:
        await interpreter.run_code("1")
    unused = sync.CodeInterpreter(LocalSessionPool())
    del interpreter, unused
    gc.collect()  # a warning would fail this test
