"""The tool: Markdown fences, approval, and nothing raised."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cci_plugins import ApprovalRequest, CodeInterpreter, Decision, Execution
from cci_plugins.errors import PoolUnavailableError
from cci_plugins.models import ErrorInfo
from cci_plugins.testing import FakeSessionPool
from cci_plugins.tools.execute_code import (
    SessionKeyResolver,
    call,
    call_in_session,
    strip_fence,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "code",
    [
        "python_version = 3",
        "PYTHONPATH = 'a'",
        "    indented = 1",
        "x = '`'",
        "```python\nunclosed",
        "print('''\n```\n''')",
        "```python\nfirst\n```\ntext\n```python\nsecond\n```",
        "",
    ],
)
def test_code_goes_through_unchanged(code: str) -> None:
    assert strip_fence(code) == code


@pytest.mark.parametrize("label", ["", "python", "py", "python3", "Python "])
def test_one_complete_fence_is_removed(label: str) -> None:
    assert strip_fence(f"```{label}\nx = 1\nx\n```\n") == "x = 1\nx"


async def test_a_denied_run_does_not_run() -> None:
    async def deny(request: ApprovalRequest) -> Decision:
        assert request.code == "x = 1"
        assert request.session_key == "alice"
        return Decision("deny", reason="not today")

    pool = FakeSessionPool()
    async with CodeInterpreter(pool, approve=deny) as interpreter:
        reply = await call(interpreter, "x = 1", session_key="alice")
    assert pool.calls == []
    assert reply.failed
    assert "not today" in reply.text


async def test_an_edited_run_runs_as_edited() -> None:
    async def edit(_: ApprovalRequest) -> Decision:
        return Decision("allow", code="x = 2")

    pool = FakeSessionPool()
    async with CodeInterpreter(pool, approve=edit) as interpreter:
        await call(interpreter, "x = 1")
    assert [code for _, code in pool.calls] == ["x = 2"]


async def test_a_failure_of_the_pool_is_one_sentence_for_the_model() -> None:
    class Down(FakeSessionPool):
        async def execute(self, *_: object, **__: object) -> Execution:  # type: ignore[override]
            raise PoolUnavailableError("the pool is down")

    async with CodeInterpreter(Down()) as interpreter:
        reply = await call(interpreter, "1")
    assert reply.failed
    assert reply.execution.error is not None
    assert reply.execution.error.name == "NotRun"
    assert reply.text == (
        "The code interpreter could not run this: the pool is down. "
        "It did not start; you may try again."
    )


async def test_an_unexpected_failure_leaks_nothing() -> None:
    class Broken(FakeSessionPool):
        async def execute(self, *_: object, **__: object) -> Execution:  # type: ignore[override]
            raise RuntimeError("sig=SECRET")

    async with CodeInterpreter(Broken()) as interpreter:
        reply = await call(interpreter, "1")
    assert "SECRET" not in reply.text
    assert reply.failed


async def test_a_failing_run_is_a_reply_with_its_execution() -> None:
    failed = Execution(error=ErrorInfo("E", "m"), status="failed")
    async with CodeInterpreter(FakeSessionPool(failed)) as interpreter:
        reply = await call(interpreter, "1")
    assert reply.failed
    assert reply.execution == failed
    assert "E: m" in reply.text


async def test_a_session_runs_the_tool_with_its_own_approver_budget_and_sanitizer() -> None:
    async def deny(_: ApprovalRequest) -> Decision:
        return Decision("deny")

    def sanitize(execution: Execution) -> Execution:
        return replace(execution, stdout=execution.stdout.upper())

    pool = FakeSessionPool(Execution(stdout="x"))
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        reply = await call_in_session(session, "1", output_characters=200, sanitize=sanitize)
        denied = await call_in_session(session, "2", output_characters=200, approve=deny)
        with interpreter.use_session("a", max_runs=0):
            unpaid = await call_in_session(session, "3", output_characters=200)
    assert (reply.text, reply.execution.stdout) == ("X", "X")
    assert (denied.failed, unpaid.failed) == (True, True)
    assert [code for _, code in pool.calls] == ["1"]


async def test_a_session_key_is_the_explicit_one_then_the_current_one_then_the_frameworks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keys = SessionKeyResolver("adapter", "one session for all")
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        with interpreter.use_session("current"):
            assert keys.resolve("thread", explicit_key="explicit") == "explicit"
            assert keys.resolve("thread") == "current"
    assert keys.resolve(None, "", 7) == "7"
    assert caplog.text == ""
    assert keys.resolve(None) == keys.resolve() == keys.fallback_key
    assert keys.fallback_key.startswith("adapter-")
    assert caplog.text.count("one session for all") == 1
    assert SessionKeyResolver("adapter", "unused", fallback_key="own").resolve() == "own"
