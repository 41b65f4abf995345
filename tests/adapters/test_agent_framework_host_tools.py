"""Function tools of Agent Framework that code calls: middleware, approval, the end of the run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from agent_framework import (
    Agent,
    Content,
    FunctionInvocationContext,
    FunctionMiddleware,
    FunctionTool,
    Message,
    MiddlewareFailure,
    MiddlewareTermination,
    tool,
)
from agent_framework.openai import OpenAIChatCompletionClient
from openai import AsyncOpenAI

from cci_plugins import CodeInterpreter, Decision, HostTool, ToolCallRequest
from cci_plugins.agent_framework import CodeInterpreterProvider
from cci_plugins.errors import ConfigurationError
from cci_plugins.testing import ScriptedModel
from cci_plugins.testing.session_pools import FakeTools

from ._host_tools import Program, failure, pool_of

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def agent_of(
    program: Program, *tools: Any, client_middleware: Any = (), middleware: Any = (), **options: Any
) -> AsyncIterator[tuple[Agent, ScriptedModel]]:
    """An agent whose model runs code for every question."""
    with ScriptedModel("1") as model:
        async with (
            CodeInterpreter(pool_of(program)) as interpreter,
            AsyncOpenAI(base_url=model.url, api_key="none-needed") as client,
        ):
            provider = CodeInterpreterProvider(interpreter, tools=tools, **options)
            chat = OpenAIChatCompletionClient(
                model="scripted", async_client=client, middleware=list(client_middleware)
            )
            agent = Agent(chat, context_providers=[provider], middleware=list(middleware))
            yield agent, model


def result_of(model: ScriptedModel) -> str:
    """What the model read."""
    return str(model.requests[-1][1]["messages"][-1]["content"])


@tool
def search_orders(
    customer: str, ctx: FunctionInvocationContext, limit: int = 2
) -> list[dict[str, Any]]:
    """Find the orders of a customer. The newest come first."""
    tenant = ctx.kwargs.get("tenant")
    return [{"customer": customer, "id": n, "tenant": tenant} for n in range(limit)]


class Watch(FunctionMiddleware):
    """Records the calls that it sees."""

    def __init__(self, name: str, seen: list[Any]) -> None:
        self.name, self.seen = name, seen

    async def process(self, context: Any, call_next: Any) -> None:
        self.seen.append((self.name, context.function.name, dict(context.arguments)))
        await call_next()
        if context.function.name == "search_orders":
            (item,) = context.result
            assert isinstance(item, Content)


async def test_all_middleware_of_the_run_sees_each_call() -> None:
    seen: list[Any] = []

    @tool
    def explode() -> str:
        raise KeyError("boom")

    async def program(tools: FakeTools) -> Any:
        return [
            await tools.acall("search_orders", customer="alice", limit=1),
            await failure(tools.acall("explode")),
            await failure(tools.acall("search_orders", customer="a", ctx={})),
            await failure(tools.acall("search_orders", limit=1)),
        ]

    options = {"client_middleware": [Watch("client", seen)], "middleware": [Watch("agent", seen)]}
    async with agent_of(program, search_orders, explode, **options) as (agent, model):
        await agent.run(
            "go",
            session=agent.create_session(),
            middleware=[Watch("run", seen)],
            function_invocation_kwargs={"tenant": "contoso"},
        )
    result = result_of(model)
    assert repr([{"customer": "alice", "id": 0, "tenant": "contoso"}]) in result
    assert "('failed', \"KeyError: 'boom'\")" in result
    assert "'ctx' is not a parameter" in result
    assert "'customer' is a required property" in result
    given = {"customer": "alice", "limit": 1}
    names = ("client", "agent", "run")
    assert seen == [
        *[(name, "execute_code", {"code": "1"}) for name in names],
        *[(name, "search_orders", given) for name in names],
        *[(name, "explode", {}) for name in names],
    ]


async def test_middleware_can_change_and_refuse_a_call() -> None:
    class Change(FunctionMiddleware):
        async def process(self, context: Any, call_next: Any) -> None:
            customer = context.arguments.get("customer")
            if customer == "cached":
                context.result = "from the cache"
                return
            if customer == "forbidden":
                raise PermissionError("not this one")
            if customer == "asked":
                call = Content.from_function_call("1", "x")
                context.result = Content.from_function_approval_request("1", call)
                return
            await call_next()
            if customer == "changed":
                context.result[0].text = '["changed"]'

    async def program(tools: FakeTools) -> Any:
        names = ("cached", "forbidden", "asked", "changed")
        return [await failure(tools.acall("search_orders", customer=name)) for name in names]

    async with agent_of(program, search_orders, middleware=[Change()]) as (agent, model):
        await agent.run("go", session=agent.create_session())
    assert result_of(model) == repr(
        [
            ("returned", "'from the cache'"),
            ("failed", "PermissionError: not this one"),
            ("denied", "this tool waits for the user, which is not possible while code runs"),
            ("returned", "['changed']"),
        ]
    )


@pytest.mark.parametrize("error", [MiddlewareFailure, MiddlewareTermination])
async def test_middleware_that_ends_the_run_ends_the_code(error: type[Exception]) -> None:
    class Stop(FunctionMiddleware):
        async def process(self, context: Any, call_next: Any) -> None:
            if context.function.name == "search_orders":
                raise error("the budget is spent")
            await call_next()

    async def program(tools: FakeTools) -> Any:
        await failure(tools.acall("search_orders", customer="alice"))
        await anyio.sleep_forever()

    async with agent_of(program, search_orders, middleware=[Stop()]) as (agent, model):
        with anyio.fail_after(30):
            if error is MiddlewareFailure:
                with pytest.raises(MiddlewareFailure):
                    await agent.run("go", session=agent.create_session())
            else:
                reply = await agent.run("go", session=agent.create_session())
                (item,) = reply.messages[-1].contents
                assert item.result == "the budget is spent"
        assert len(model.requests) == 1


class Called:
    """Counts runs of code."""

    def __init__(self) -> None:
        self.results: list[Any] = []

    async def __call__(self, tools: FakeTools) -> Any:
        self.results.append(await failure(tools.acall("refund", amount=5)))
        return self.results[-1]


@tool(approval_mode="always_require")
def refund(amount: int) -> str:
    """Pay an amount back."""
    return f"paid {amount}"


@pytest.mark.parametrize("is_approved", [True, False])
async def test_a_tool_that_needs_approval_makes_execute_code_need_it_and_code_runs_once(
    *, is_approved: bool
) -> None:
    code = Called()
    async with agent_of(code, refund) as (agent, _):
        session = agent.create_session()
        reply = await agent.run("go", session=session)
        (request,) = reply.user_input_requests
        assert request.function_call.name == "execute_code"
        assert code.results == []
        answer = request.to_function_approval_response(is_approved)
        await agent.run(Message("user", [answer]), session=session)
    assert code.results == ([("returned", "'paid 5'")] if is_approved else [])


async def test_an_approver_is_asked_while_the_code_waits() -> None:
    asked: list[ToolCallRequest] = []

    async def approve(request: ToolCallRequest) -> Decision:
        asked.append(request)
        return Decision("deny", reason="not today")

    code = Called()
    async with agent_of(code, refund, approve_tool=approve) as (agent, _):
        await agent.run("go", session=agent.create_session())
    assert code.results == [("denied", "the user did not approve the call of refund: not today")]
    assert [(one.name, one.arguments) for one in asked] == [("refund", {"amount": 5})]


async def test_the_description_has_the_signatures_and_every_kind_of_tool_works() -> None:
    def count(text: str) -> int:
        """Count the letters."""
        return len(text)

    host = HostTool("add", "Add.", {"properties": {"a": {"type": "integer"}}}, lambda a: a + 1)

    async def program(tools: FakeTools) -> Any:
        return await tools.acall("count", text="abc"), await tools.acall("add", a=1)

    async with agent_of(program, count, host) as (agent, model):
        await agent.run("go", session=agent.create_session())
    assert result_of(model) == "(3, 2)"
    (shown,) = model.requests[0][1]["tools"]
    assert "- tools.count(text: str): Count the letters.\n" in shown["function"]["description"]


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ([search_orders, search_orders], "several tools are called 'search_orders'"),
        ([FunctionTool(name="declared")], "tools has a FunctionTool without a function"),
        (search_orders, "tools is a FunctionTool"),
    ],
)
def test_wrong_options_are_refused_at_once(tools: Any, expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        CodeInterpreterProvider(tools=tools)
