"""Which cells a restore may run again, and what happens when one fails."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from cci_plugins import CodeInterpreter, ErrorInfo, Execution
from cci_plugins.core import notebook as notebook_module
from cci_plugins.errors import CheckpointError, ConfigurationError
from cci_plugins.models import ToolCall
from cci_plugins.redaction import know
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio
FAILED = Execution(error=ErrorInfo("ValueError", "no"), status="failed")


async def save(folder: Path, *codes: str, executions: list[Execution] | None = None) -> Path:
    async with CodeInterpreter(FakeSessionPool(*(executions or []))) as interpreter:
        session = interpreter.session("alice")
        await session.files.upload(b"1", name="a")
        for code in codes:
            await session.run_code(code)
        return Path((await session.save(folder)).location)


async def test_named_cells_run_again_in_the_order_of_the_history_and_the_model_is_told(
    tmp_path: Path,
) -> None:
    path = await save(tmp_path, "x = 1", "y = 2", "z = 3")
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("bob")
        await session.restore(path, replay=["run-3", 1])
        assert [code for _, code in pool.calls] == ["x = 1", "z = 3"]
        note = (await session.run_code("1")).notes[0]
        assert (
            note == "restored files: a; variables are only those of run-1, run-3, which ran again"
        )
        assert session.notebook().count('"cell_type": "code"') == 4
        with pytest.raises(ConfigurationError, match="a session that was not used"):
            await session.restore(path, replay=[1])


async def test_cells_that_would_not_do_the_same_are_refused_by_name_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know("planted-secret-value-1")
    call = ToolCall("send", {}, "succeeded", duration=timedelta(0))
    executions = [Execution(), FAILED, Execution(), Execution(tool_calls=(call,)), Execution()]
    async with CodeInterpreter(FakeSessionPool(*executions)) as interpreter:
        session = interpreter.session("alice")
        monkeypatch.setattr(notebook_module, "MAX_BYTES", 1000)
        for code in ("#" * 800, "1/0", "key = 'planted-secret-value-1'"):
            await session.run_code(code)
        # the pool's tool calls are those of the run, so the history gets them directly
        session._notebook.add("tools.send()", executions[3])
        path = (await session.save(tmp_path)).location
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("bob")
        with pytest.raises(ConfigurationError) as caught:
            await session.restore(path, replay=[1, 2, 3, 4, 5])
        assert str(caught.value) == (
            "cannot replay: run-1 was dropped from the notebook; run-2 failed; "
            "run-3 has a text that redaction changed; run-4 called a host tool; "
            "run-5 is not in the history"
        )
        for wrong in ([0], ["x"], [True], [1.5], "run-1"):
            with pytest.raises(ConfigurationError, match=r"does not name a cell|not a list"):
                await interpreter.session(str(wrong)).restore(path, replay=wrong)  # type: ignore[arg-type] # the error is the point
        assert pool.calls == []
        assert await session.files.list() == []


async def test_a_replay_that_fails_leaves_a_session_as_if_it_was_not_used(tmp_path: Path) -> None:
    path = await save(tmp_path, "x = 1", "y = 2")
    pool = FakeSessionPool(Execution(), FAILED, Execution())
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("bob")
        with pytest.raises(CheckpointError, match="run-2 failed in the replay: ValueError: no"):
            await session.restore(path, replay=[1, 2])
        assert await session.files.list() == []
        assert "x = 1" not in session.notebook()
    with pytest.raises(ConfigurationError, match="run-1 is named twice"):
        async with CodeInterpreter(pool) as interpreter:
            await interpreter.session("bob").restore(path, replay=[1, "run-1"])
