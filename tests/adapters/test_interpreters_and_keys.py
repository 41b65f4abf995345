"""Every adapter takes the blocking interpreter, and 0 as the name of a conversation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest
from tests.adapters.test_every_adapter import ADAPTERS

from cci_plugins import CodeInterpreter, Execution
from cci_plugins.agent_framework import CodeInterpreterProvider, code_interpreter_tool
from cci_plugins.deepagents import CodeInterpreterSandbox
from cci_plugins.errors import ConfigurationError
from cci_plugins.langchain import CodeInterpreterTool, CodeInterpreterToolkit
from cci_plugins.openai_agents import code_interpreter_tool as openai_tool
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from cci_plugins.sync import CodeInterpreter as SyncCodeInterpreter
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("call_adapter", ADAPTERS.values(), ids=list(ADAPTERS))
async def test_the_blocking_interpreter_runs_code_in_the_session_of_the_conversation(
    call_adapter: Callable[..., Awaitable[str]],
) -> None:
    pool = FakeSessionPool(Execution(stdout="42"))
    interpreter = SyncCodeInterpreter(pool)
    assert await call_adapter(interpreter, "alice", "1") == "42"
    assert pool.calls == [(interpreter.session("alice").id, "1")]


async def test_the_blocking_interpreter_serves_file_tools_mounts_and_the_sandbox() -> None:
    interpreter = SyncCodeInterpreter(FakeSessionPool())
    config = {"configurable": {"thread_id": "alice"}}
    _, listing, _ = CodeInterpreterToolkit(interpreter=interpreter).get_tools()
    assert await listing.ainvoke({}, config) == "(no files)"
    assert listing.invoke({}, config) == "(no files)"
    assert CodeInterpreterSandbox(interpreter, session_key=0).id == interpreter.session("0").id
    assert CodeInterpreterProvider(interpreter, file_mounts=__file__)


def test_what_is_not_an_interpreter_is_refused_when_the_adapter_is_made() -> None:
    for make in (CodeInterpreterPlugin, CodeInterpreterSandbox, code_interpreter_tool, openai_tool):
        with pytest.raises(ConfigurationError, match="not FakeSessionPool"):
            make(FakeSessionPool())  # type: ignore[arg-type, operator]
    with pytest.raises(ValueError, match="CodeInterpreter"):
        CodeInterpreterTool(interpreter=FakeSessionPool())  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [0, 7, UUID(int=7)])
async def test_a_number_as_thread_id_is_a_session_of_its_own(key: int | UUID) -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        tool = CodeInterpreterTool(interpreter=interpreter, session_key="fallback")
        await tool.ainvoke({"code": "1"}, {"configurable": {"thread_id": key}})
        assert pool.calls[-1][0] == interpreter.session(key).id == interpreter.session(str(key)).id
        named = CodeInterpreterTool(interpreter=interpreter, session_key=key)
        await named.ainvoke({"code": "1"})
        assert pool.calls[-1][0] == interpreter.session(key).id
        plugin = CodeInterpreterPlugin(interpreter, session_key=key)
        await plugin.execute_code("1")
        assert pool.calls[-1][0] == interpreter.session(key).id
