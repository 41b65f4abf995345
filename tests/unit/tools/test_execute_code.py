"""The one tool: fences, approval, and nothing raised."""

from __future__ import annotations

import pytest

from cci_plugins import ApprovalRequest, CodeInterpreter, Decision, Execution
from cci_plugins.errors import PoolUnavailableError
from cci_plugins.models import ErrorInfo
from cci_plugins.testing import FakeSessionPool
from cci_plugins.tools.execute_code import call, strip_fence

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


async def test_a_fault_of_the_place_is_one_sentence_for_the_model() -> None:
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


async def test_an_unexpected_fault_leaks_nothing() -> None:
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
