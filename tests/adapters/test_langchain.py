"""The LangChain tool: LangChain's own tests, artifact, status, streaming, defaults."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import ToolMessage
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from cci_plugins import CodeInterpreter, Execution, LocalSessionPool
from cci_plugins.langchain import CodeInterpreterTool
from cci_plugins.testing import FakeSessionPool
from cci_plugins.tools import execute_code


class TestUnit(ToolsUnitTests):
    @property
    def tool_constructor(self) -> type[CodeInterpreterTool]:
        return CodeInterpreterTool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"interpreter": CodeInterpreter(FakeSessionPool(Execution(stdout="2")))}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"code": "print(1 + 1)"}


@pytest.mark.slow
@pytest.mark.anyio
class TestIntegration(ToolsIntegrationTests):
    made: CodeInterpreter

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def pool(cls) -> Iterator[None]:
        cls.made = CodeInterpreter(LocalSessionPool(preload=()))
        yield
        asyncio.run(cls.made.aclose())

    @property
    def tool_constructor(self) -> type[CodeInterpreterTool]:
        return CodeInterpreterTool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"interpreter": self.made}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"code": "print(1 + 1)"}


def call(code: str) -> dict[str, Any]:
    return {"type": "tool_call", "id": "call-1", "name": execute_code.NAME, "args": {"code": code}}


@pytest.mark.anyio
@pytest.mark.slow
async def test_a_failure_keeps_its_artifact_and_its_status(interpreter: CodeInterpreter) -> None:
    code_interpreter = CodeInterpreterTool(interpreter=interpreter)
    message = await code_interpreter.ainvoke(call("1 / 0"))
    assert isinstance(message, ToolMessage)
    assert (message.status, message.tool_call_id) == ("error", "call-1")
    assert isinstance(message.artifact, Execution)
    assert message.artifact.error is not None
    blocking = await asyncio.to_thread(code_interpreter.invoke, call("1 / 0"))
    assert (blocking.status, blocking.text) == ("error", message.text.replace("In[1]", "In[2]"))


@pytest.mark.anyio
@pytest.mark.slow
async def test_output_streams_through_the_graph_and_the_history_survives_a_checkpoint(
    interpreter: CodeInterpreter, caplog: pytest.LogCaptureFixture
) -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([CodeInterpreterTool(interpreter=interpreter)]))
    graph.add_edge(START, "tools")
    app = graph.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "stream"}}
    code = "import time\nfor i in range(3): print(i, flush=True); time.sleep(0.3)"
    message = {"role": "assistant", "content": "", "tool_calls": [call(code)]}
    given, modes = {"messages": [message]}, ["custom", "tools"]
    chunks = [chunk async for chunk in app.astream(given, config, stream_mode=modes)]
    written = [
        {"tool": execute_code.NAME, "stream": "stdout", "text": text}
        for text in ("0\n", "1\n", "2\n")
    ]
    assert [chunk for mode, chunk in chunks if mode == "custom"] == written
    deltas = [chunk for _, chunk in chunks if chunk.get("event") == "tool-output-delta"]
    assert [delta["delta"] for delta in deltas] == written
    assert {delta["tool_call_id"] for delta in deltas} == {"call-1"}
    blocking = await asyncio.to_thread(
        lambda: list(app.stream(given, config, stream_mode="custom"))
    )
    assert blocking == written
    state = await app.aget_state(config)
    assert state.values["messages"][-1].text == "0\n1\n2"
    assert "unregistered type" not in caplog.text
    # LangGraph keeps a message's artifact as plain values, so it comes back as a dict
    assert state.values["messages"][-1].artifact["stdout"] == "0\n1\n2\n"


@pytest.mark.anyio
async def test_without_a_thread_each_tool_object_has_a_session_of_its_own() -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        one, two = (CodeInterpreterTool(interpreter=interpreter) for _ in range(2))
        for each in (one, one, two):
            await each.ainvoke({"code": "1"})
        with interpreter.use_session("alice") as session:
            await one.ainvoke({"code": "1"})
    first, again, other, named = (session_id for session_id, _ in pool.calls)
    assert first == again != other
    assert named == session.id


def test_the_interpreter_is_not_in_the_tools_repr_or_dump() -> None:
    code_interpreter = CodeInterpreterTool(interpreter=CodeInterpreter(FakeSessionPool()))
    assert "interpreter=" not in repr(code_interpreter)
    assert "interpreter" not in code_interpreter.model_dump()
