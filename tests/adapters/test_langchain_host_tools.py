"""LangChain tools that code calls: callbacks, configuration, injected arguments, interrupts."""

from __future__ import annotations

import operator
from copy import deepcopy
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import (
    BaseTool,
    InjectedToolArg,
    InjectedToolCallId,
    StructuredTool,
    ToolException,
    tool,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import InjectedState, ToolRuntime
from langgraph.types import Command, interrupt

from cci_plugins import CodeInterpreter, Decision, HostTool, ToolCallRequest
from cci_plugins.errors import ConfigurationError
from cci_plugins.langchain import CodeInterpreterTool, CodeInterpreterToolkit
from cci_plugins.testing import FakeSessionPool
from cci_plugins.testing.session_pools import FakeTools
from cci_plugins.tools import execute_code

from ._host_tools import Program, failure, pool_of

pytestmark = pytest.mark.anyio


@tool
def search_orders(customer: str, limit: int = 10) -> list[dict[str, Any]]:
    """Find the orders of a customer. The newest come first."""
    return [{"customer": customer, "id": number} for number in range(limit)]


class Recorder(BaseCallbackHandler):
    """Records the tools that LangChain starts and ends."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.parents: dict[str, Any] = {}
        self.runs: dict[Any, str] = {}

    def on_tool_start(self, serialized: Any, input_str: str, **more: Any) -> None:
        name = serialized["name"]
        self.events.append((f"{name} started", more["inputs"]))
        self.parents[name] = self.runs.get(more["parent_run_id"])
        self.runs[more["run_id"]] = name
        assert {"team", "blue"} <= {*(more["tags"] or ()), *(more["metadata"] or {}).values()}

    def on_tool_end(self, output: Any, **more: Any) -> None:
        self.events.append((f"{self.runs[more['run_id']]} ended", output))

    def on_tool_error(self, error: BaseException, **more: Any) -> None:
        self.events.append((f"{self.runs[more['run_id']]} failed", str(error)))


CONFIG: RunnableConfig = {
    "tags": ["team"],
    "metadata": {"colour": "blue"},
    "configurable": {"thread_id": "a", "tenant": "contoso"},
}


async def run_code(program: Program, *tools: Any, config: Any = CONFIG, **options: Any) -> Any:
    async with CodeInterpreter(pool_of(program)) as interpreter:
        made = CodeInterpreterTool(interpreter=interpreter, tools=list(tools), **options)
        call = {"type": "tool_call", "id": "1", "name": "execute_code", "args": {"code": "1"}}
        return await made.ainvoke(call, config)


async def test_callbacks_see_the_calls_as_children_and_the_code_gets_data() -> None:
    recorder = Recorder()

    @tool
    def explode(reason: str) -> str:
        """Fail."""
        raise KeyError(reason)

    async def program(tools: FakeTools) -> Any:
        orders = await tools.acall("search_orders", customer="alice", limit=2)
        return orders, await failure(tools.acall("explode", reason="boom"))

    config = {**CONFIG, "callbacks": [recorder]}
    message = await run_code(program, search_orders, explode, config=config)
    orders = [{"customer": "alice", "id": 0}, {"customer": "alice", "id": 1}]
    assert message.content == repr((orders, ("failed", "KeyError: 'boom'")))
    assert recorder.events[1:-1] == [
        ("search_orders started", {"customer": "alice", "limit": 2}),
        ("search_orders ended", orders),
        ("explode started", {"reason": "boom"}),
        ("explode failed", "'boom'"),
    ]
    assert recorder.parents == {
        "execute_code": None,
        "search_orders": "execute_code",
        "explode": "execute_code",
    }
    assert [(one.name, one.status) for one in message.artifact.tool_calls] == [
        ("search_orders", "succeeded"),
        ("explode", "failed"),
    ]


async def test_the_configuration_reaches_a_tool_and_injected_arguments_are_out_of_reach() -> None:
    @tool
    async def read_tenant(
        table: str,
        config: RunnableConfig,
        call_id: Annotated[str, InjectedToolCallId],
        secret: Annotated[str, InjectedToolArg] = "of the application",
    ) -> str:
        """Read a table of the tenant."""
        return f"{config['configurable']['tenant']} {table} {secret} {bool(call_id)}"

    async def program(tools: FakeTools) -> Any:
        return [
            await tools.acall("read_tenant", table="t"),
            await failure(tools.acall("read_tenant", table="t", secret="mine")),
            await failure(tools.acall("read_tenant", table="t", config={})),
            await failure(tools.acall("read_tenant", table="t", call_id="x")),
            await failure(tools.acall("read_tenant")),
        ]

    message = await run_code(program, read_tenant)
    assert "contoso t of the application True" in message.content
    for name in ("secret", "config", "call_id"):
        assert f"{name!r} is not a parameter; the parameters are table" in message.content
    assert "'table' is a required property" in message.content
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        shown = CodeInterpreterTool(interpreter=interpreter, tools=[read_tenant, search_orders])
    assert "- tools.read_tenant(table: str): Read a table of the tenant." in shown.description
    assert "- tools.search_orders(customer: str, limit: int = 10)" in shown.description
    assert "The newest come first" not in shown.description


async def test_tools_that_return_artifacts_commands_or_handle_their_errors() -> None:
    @tool(response_format="content_and_artifact")
    def load(name: str) -> tuple[str, object]:
        """Load a table."""
        return f"rows of {name}", object()

    @tool(response_format="content_and_artifact")
    def ask_server() -> tuple[list[dict[str, str]], object]:
        """Ask an MCP server."""
        return [{"type": "text", "text": '{"rows": 3}'}], object()

    def fail(text: str) -> str:
        """Fail."""
        raise ToolException(text)

    @tool
    def go_to(node: str) -> Any:
        """Go to a node."""
        return Command(goto=node)

    handled = StructuredTool.from_function(fail, name="fail-handled", handle_tool_error=True)

    async def program(tools: FakeTools) -> Any:
        return [
            await tools.acall("load", name="t"),
            await tools.acall("ask_server"),
            await failure(tools.acall("fail_handled", text="no such table")),
            await failure(tools.acall("go_to", node="end")),
        ]

    message = await run_code(program, load, ask_server, handled, go_to)
    assert message.content == repr(
        [
            "rows of t",
            {"rows": 3},
            ("failed", "no such table"),
            ("failed", "this tool changes the graph, which is not possible from code"),
        ]
    )


class Called:
    """Counts runs of code."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.results: list[Any] = []

    async def __call__(self, tools: FakeTools) -> Any:
        self.results.append([await failure(tools.acall(name)) for name in self.names])
        return self.results[-1]


def agent_of(interpreter: CodeInterpreter, *tools: Any, **options: Any) -> Any:
    call = {"name": "execute_code", "args": {"code": "1"}, "id": "1"}
    model = Model(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("done")]))
    made = CodeInterpreterTool(interpreter=interpreter, tools=list(tools))
    return create_agent(model, tools=[made], checkpointer=InMemorySaver(), **options)


class Model(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **_: Any) -> Any:
        assert [list(one.tool_call_schema.model_fields) for one in tools] == [["code"]]
        return self


async def test_graph_state_and_runtime_are_injected_and_an_interrupt_is_refused() -> None:
    @tool
    def count_messages(state: Annotated[dict[str, Any], InjectedState]) -> int:
        """Count the messages."""
        return len(state["messages"])

    @tool
    def read_thread(runtime: ToolRuntime) -> str:
        """Read the thread."""
        return f"{runtime.config['configurable']['thread_id']} {len(runtime.state['messages'])}"

    @tool
    def ask() -> str:
        """Ask the user."""
        return str(interrupt("may I?"))

    code = Called("count_messages", "read_thread", "ask")
    async with CodeInterpreter(pool_of(code)) as interpreter:
        agent = agent_of(interpreter, count_messages, read_thread, ask)
        state = await agent.ainvoke({"messages": [("user", "go")]}, CONFIG)
    assert "__interrupt__" not in state
    assert len(code.results) == 1
    count, thread, refused = code.results[0]
    assert count == ("returned", "'2'")
    assert thread == ("returned", "'a 2'")
    assert refused[0] == "denied"
    assert "interrupts the graph, which is not possible while code runs" in refused[1]


async def test_approval_of_the_whole_run_by_langgraph_runs_the_code_once() -> None:
    code, asked = Called("refund"), []

    @tool
    def refund() -> str:
        """Pay back."""
        return str(asked.append("paid"))

    ask = HumanInTheLoopMiddleware(interrupt_on={"execute_code": True})
    async with CodeInterpreter(pool_of(code)) as interpreter:
        agent = agent_of(interpreter, refund, middleware=[ask])
        state = await agent.ainvoke({"messages": [("user", "go")]}, CONFIG)
        assert len(state["__interrupt__"]) == 1
        assert (code.results, asked) == ([], [])
        await agent.ainvoke(Command(resume={"decisions": [{"type": "approve"}]}), CONFIG)
    assert (len(code.results), asked) == (1, ["paid"])


async def test_an_approver_is_asked_while_the_code_waits() -> None:
    asked: list[ToolCallRequest] = []

    async def approve(request: ToolCallRequest) -> Decision:
        asked.append(request)
        allowed = request.arguments["amount"] < 100
        return Decision("allow") if allowed else Decision("deny", reason="too much")

    @tool
    def refund(amount: int) -> str:
        """Pay an amount back."""
        return f"paid {amount}"

    async def program(tools: FakeTools) -> Any:
        small = await tools.acall("refund", amount=5)
        return small, await failure(tools.acall("refund", amount=500))

    message = await run_code(program, refund, needs_approval={"refund"}, approve_tool=approve)
    assert (
        message.content
    ) == "('paid 5', ('denied', 'the user did not approve the call of refund: too much'))"
    assert [(one.name, one.arguments) for one in asked] == [
        ("refund", {"amount": 5}),
        ("refund", {"amount": 500}),
    ]


def refund(amount: int) -> str:
    """Pay an amount back."""
    return f"paid {amount}"


def undocumented(amount: int) -> str:
    return f"paid {amount}"


async def allow(_: ToolCallRequest) -> Decision:
    return Decision("allow")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tools": [refund], "needs_approval": ["refund"]}, "nobody can be asked"),
        ({"tools": [refund], "needs_approval": ["pay"], "approve_tool": allow}, "names 'pay'"),
        ({"tools": [refund, refund]}, "several tools are called 'refund'"),
        ({"tools": ["refund"]}, "tools has a str"),
        ({"tools": [undocumented]}, "'undocumented' cannot become a tool"),
        ({"tools": refund}, "tools is a function"),
        ({"approve_tool": allow}, "approve_tool was passed without tools"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        CodeInterpreterTool(**options)


async def test_a_pool_without_tool_calls_is_refused_at_once() -> None:
    pool = FakeSessionPool()
    pool.capabilities = operator.attrgetter("capabilities")(pool)
    from dataclasses import replace

    pool.capabilities = replace(pool.capabilities, host_tools=False)
    async with CodeInterpreter(pool) as interpreter:
        with pytest.raises(ConfigurationError, match="cannot call tools of the host"):
            CodeInterpreterTool(interpreter=interpreter, tools=[refund])


def test_without_tools_the_model_sees_what_it_always_saw() -> None:
    plain = CodeInterpreterTool()
    assert plain.description == execute_code.DESCRIPTION
    described = CodeInterpreterTool(description="Mine.", tools=[refund])
    assert described.description.startswith("Mine.\nThe code can call these functions")


async def test_copies_toolkits_and_blocking_calls_have_the_same_tools() -> None:
    host = HostTool("add", "Add.", {"properties": {"a": {"type": "integer"}}}, lambda a: a + 1)

    async def program(tools: FakeTools) -> Any:
        return await tools.acall("add", a=1), await tools.acall("refund", amount=2)

    async with CodeInterpreter(pool_of(program)) as interpreter:
        kit = CodeInterpreterToolkit(interpreter=interpreter, tools=[refund, host])
        made: BaseTool = kit.get_tools()[0]
        copied: Any = deepcopy(made)
        assert copied.tools[1] is host
        assert copied.description == made.description
        assert await copied.ainvoke({"code": "1"}) == "(2, 'paid 2')"
        import asyncio

        assert await asyncio.to_thread(copied.invoke, {"code": "1"}) == "(2, 'paid 2')"
