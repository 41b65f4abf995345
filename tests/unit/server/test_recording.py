"""Recording of every run of a pool."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import anyio
import pytest

from cci_plugins.common.environment import Secret, build_session_environment
from cci_plugins.errors import PoolError, SessionLostError
from cci_plugins.in_session.marked_call import build_call
from cci_plugins.in_session.script_comment import append_script
from cci_plugins.in_session.shell_expression import build_shell_code
from cci_plugins.models import Execution
from cci_plugins.pools.azure.rest_pool import CustomSessionPool
from cci_plugins.pools.base import SessionPool
from cci_plugins.pools.run_exchange import RunRelay
from cci_plugins.testing import FakeSessionPool

history_module = pytest.importorskip("cci_plugins.server.history")
record_runs = pytest.importorskip("cci_plugins.server.recording").record_runs
pytestmark = pytest.mark.anyio

TIMEOUT = timedelta(seconds=5)
SECRET = "planted-secret-of-the-session"


def record(pool: SessionPool) -> tuple[Any, Any]:
    history = history_module.RunHistory()
    return record_runs(pool, history, "rest"), history


def test_the_pool_keeps_its_class_and_every_method() -> None:
    pool, _ = record(FakeSessionPool())
    assert isinstance(pool, FakeSessionPool)
    assert not isinstance(pool, RunRelay)
    assert isinstance(record(CustomSessionPool("https://pool.test"))[0], RunRelay)
    recorded = {"execute", "execute_in_background", "delete_session"}
    for name, method in inspect.getmembers(SessionPool, inspect.isfunction):
        if not name.startswith("_") and name not in recorded:
            assert getattr(pool, name).__func__ is getattr(FakeSessionPool, name), method


async def test_a_run_is_recorded_without_secrets_of_its_environment() -> None:
    pool, history = record(FakeSessionPool(Execution(stdout=f"it is {SECRET}\n")))
    env = build_session_environment({"KEY": Secret(SECRET)})
    seen: list[str] = []
    execution = await pool.execute(
        "session-1",
        f"print('{SECRET}')",
        timeout=TIMEOUT,
        env=env,
        on_output=lambda event: seen.append(event.text),
    )
    assert (execution.stdout, "".join(seen)) == (f"it is {SECRET}\n",) * 2, (
        "callers get it as it is"
    )
    del env
    run = history.find_session("session-1").runs[0]
    shown = f"{run.code}{run.execution.stdout}{run.read(0)}{run.outputs}"
    assert SECRET not in shown
    assert (run.code, run.status, run.entry) == ("print('[redacted]')", "succeeded", "rest")


async def test_a_run_in_the_background_is_recorded_once() -> None:
    pool, history = record(FakeSessionPool(Execution(stdout="later")))
    await pool.execute_in_background("session-1", "1", timeout=TIMEOUT)
    (run,) = history.find_session("session-1").runs
    assert run.execution.stdout == "later"


async def test_code_is_shown_as_its_author_wrote_it_and_transfers_are_not_shown() -> None:
    from cci_plugins.files import in_session_transfer

    pool, history = record(FakeSessionPool())
    transfer = build_call(in_session_transfer._PROGRAM, {"verb": "open"}).code
    for code in (
        transfer,
        "",
        build_shell_code("echo hi | wc"),
        build_shell_code(["ls", "a b"]),
        append_script("print(1)\n", ["a.py", "x"]),
        f"{transfer}\nprint('hidden behind a transfer')",
        transfer.replace("__import__('json')", "print('changed')"),
    ):
        await pool.execute("session-1", code, timeout=TIMEOUT)
    codes = [run.code for run in history.find_session("session-1").runs]
    assert codes[:3] == ["!echo hi | wc", "!ls 'a b'", "print(1)\n"]
    assert "hidden behind a transfer" in codes[3]
    assert "print('changed')" in codes[4]
    assert len(codes) == 5


async def test_a_failure_is_recorded_unless_the_code_did_not_start() -> None:
    errors = [
        PoolError(f"it failed with {SECRET}"),
        SessionLostError("it was replaced", retryable=True),
    ]

    class Failing(FakeSessionPool):
        async def execute(self, *_: Any, **__: Any) -> Execution:
            raise errors.pop(0)

    pool, history = record(Failing())
    env = build_session_environment({"KEY": Secret(SECRET)})
    for kind in (PoolError, SessionLostError):
        with pytest.raises(kind):
            await pool.execute("session-1", "1", timeout=TIMEOUT, env=env)
    (run,) = history.find_session("session-1").runs
    assert run.status == "stopped"
    assert run.error == "it failed with [redacted]"


async def test_a_cancelled_run_and_an_ended_session_are_noted() -> None:
    async def wait(_code: str, _tools: object) -> Execution:
        await anyio.sleep_forever()
        raise AssertionError

    pool, history = record(FakeSessionPool(wait))
    with anyio.move_on_after(0.05):
        await pool.execute("session-1", "1", timeout=TIMEOUT)
    session = history.find_session("session-1")
    assert (session.runs[0].status, session.runs[0].error) == ("stopped", "the run was cancelled")
    await pool.delete_session("session-1")
    assert session.ended_at is not None
