"""Function tools that code calls: guardrails, hooks, failures, approval, the end of the run."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from agents import (
    Agent,
    AgentHooks,
    FunctionTool,
    OpenAIChatCompletionsModel,
    RunConfig,
    RunContextWrapper,
    Runner,
    ToolGuardrailFunctionOutput,
    ToolOutputText,
    function_tool,
    tool_input_guardrail,
    tool_output_guardrail,
)
from agents.exceptions import ToolInputGuardrailTripwireTriggered
from agents.tool_context import ToolContext
from openai import AsyncOpenAI

from cci_plugins import CodeInterpreter, Decision, HostTool, ToolCallRequest
from cci_plugins.errors import ConfigurationError
from cci_plugins.openai_agents import code_interpreter_tool
from cci_plugins.testing import ScriptedModel
from cci_plugins.testing.session_pools import FakeTools

from ._host_tools import Program, failure, pool_of

pytestmark = pytest.mark.anyio

CODE = json.dumps({"code": "1"})


async def run_code(program: Program, *tools: Any, agent: Any = None, **options: Any) -> str:
    """Run code as the SDK invokes the tool."""
    async with CodeInterpreter(pool_of(program)) as interpreter:
        made = code_interpreter_tool(interpreter, tools=tools, **options)
        context = ToolContext(
            {"session_id": "a", "tenant": "contoso"},
            tool_name=made.name,
            tool_call_id="1",
            tool_arguments=CODE,
            agent=agent,
        )
        return str(await made.on_invoke_tool(context, CODE))


@function_tool
async def search_orders(
    context: RunContextWrapper[dict[str, str]], customer: str, limit: int = 10
) -> list[dict[str, Any]]:
    """Find the orders of a customer. The newest come first."""
    return [
        {"customer": customer, "id": n, "tenant": context.context["tenant"]} for n in range(limit)
    ]


class Hooks(AgentHooks[Any]):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self.seen.append(("start", tool.name, context.tool_arguments))

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        self.seen.append(("end", tool.name, result))


async def test_the_context_and_the_hooks_of_the_agent_take_part_in_each_call() -> None:
    hooks = Hooks()

    async def program(tools: FakeTools) -> Any:
        return [
            await tools.acall("search_orders", customer="alice", limit=1),
            await failure(tools.acall("search_orders", customer="a", tenant="mine")),
            await failure(tools.acall("search_orders", customer="a", context={})),
            await failure(tools.acall("search_orders", limit=1)),
        ]

    result = await run_code(program, search_orders, agent=Agent("analyst", hooks=hooks))
    orders = [{"customer": "alice", "id": 0, "tenant": "contoso"}]
    assert repr(orders) in result
    assert "'tenant' is not a parameter" in result
    assert "'context' is not a parameter" in result
    assert "'customer' is a required property" in result
    assert hooks.seen == [
        ("start", "search_orders", '{"customer": "alice", "limit": 1}'),
        ("end", "search_orders", orders),
    ]
    shown = code_interpreter_tool(tools=[search_orders])
    assert (
        "tools.search_orders(customer: str, limit: int = 10): Find the orders of a customer.\n"
        in (shown.description)
    )


async def test_guardrails_reject_calls_and_results() -> None:
    @tool_input_guardrail
    def check_input(data: Any) -> ToolGuardrailFunctionOutput:
        is_bad = "secret" in data.context.tool_arguments
        output = ToolGuardrailFunctionOutput
        return output.reject_content("not this table") if is_bad else output.allow()

    @tool_output_guardrail
    def check_output(data: Any) -> ToolGuardrailFunctionOutput:
        is_bad = "password" in str(data.output)
        output = ToolGuardrailFunctionOutput
        return output.reject_content("the result is secret") if is_bad else output.allow()

    ran: list[str] = []

    @function_tool(tool_input_guardrails=[check_input], tool_output_guardrails=[check_output])
    def read(table: str) -> str:
        ran.append(table)
        return f"{table} rows"

    async def program(tools: FakeTools) -> Any:
        tables = ("orders", "secret", "password")
        return [await failure(tools.acall("read", table=table)) for table in tables]

    assert await run_code(program, read) == repr(
        [
            ("returned", "'orders rows'"),
            ("denied", "not this table"),
            ("denied", "the result is secret"),
        ]
    )
    assert ran == ["orders", "password"]


async def test_failures_time_outs_and_outputs_arrive_as_the_tool_defines_them() -> None:
    @function_tool
    def explode() -> str:
        raise KeyError("boom")

    @function_tool(failure_error_function=lambda _, error: f"sorry: {type(error).__name__}")
    def apologise() -> str:
        raise KeyError("boom")

    @function_tool(timeout=0.05)
    async def sleep() -> None:
        await anyio.sleep_forever()

    @function_tool
    def text() -> Any:
        return [ToolOutputText(text="one"), ToolOutputText(text="two")]

    @function_tool(is_enabled=lambda context, agent: False)
    def disabled() -> str:
        return "no"

    async def invoke(context: Any, arguments: str) -> str:
        return f"raw {json.loads(arguments)['a']}"

    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    raw = FunctionTool("raw-tool", "Raw.", schema, invoke, strict_json_schema=False)
    host = HostTool("add", "Add.", schema, lambda a: a + 1)
    tools = (explode, apologise, sleep, text, disabled, raw, host)

    async def program(tools: FakeTools) -> Any:
        return [
            *[await failure(tools.acall(n)) for n in ("explode", "apologise", "sleep", "text")],
            (await failure(tools.acall("disabled")))[0],
            await tools.acall("raw_tool", a=1),
            await tools.acall("add", a=1),
        ]

    assert await run_code(program, *tools) == repr(
        [
            ("failed", "KeyError: 'boom'"),
            ("failed", "sorry: KeyError"),
            ("timeout", "the tool did not return within 0.05 s"),
            ("returned", "['one', 'two']"),
            "invalid",
            "raw 1",
            2,
        ]
    )


class Called:
    """Counts runs of code."""

    def __init__(self, name: str, **arguments: Any) -> None:
        self.name, self.arguments = name, arguments
        self.results: list[Any] = []

    async def __call__(self, tools: FakeTools) -> Any:
        self.results.append(await failure(tools.acall(self.name, **self.arguments)))
        return self.results[-1]


@function_tool(needs_approval=True)
def refund(amount: int) -> str:
    """Pay an amount back."""
    return f"paid {amount}"


async def needs_no_approval(*_: Any) -> bool:
    return False


@pytest.mark.parametrize("is_approved", [True, False])
async def test_a_tool_that_needs_approval_makes_execute_code_need_it_and_code_runs_once(
    *, is_approved: bool
) -> None:
    code = Called("refund", amount=5)
    async with CodeInterpreter(pool_of(code)) as interpreter, client_of() as (client, _):
        tool = code_interpreter_tool(interpreter, tools=[refund], needs_approval=needs_no_approval)
        agent = Agent("a", model=OpenAIChatCompletionsModel("scripted", client), tools=[tool])
        config = RunConfig(tracing_disabled=True)
        first = await Runner.run(agent, "go", context={"session_id": "a"}, run_config=config)
        assert [one.name for one in first.interruptions] == ["execute_code"]
        assert code.results == []
        state = first.to_state()
        (state.approve if is_approved else state.reject)(first.interruptions[0])
        await Runner.run(agent, state, run_config=config)
    assert code.results == ([("returned", "'paid 5'")] if is_approved else [])


async def test_an_approver_is_asked_while_the_code_waits() -> None:
    asked: list[ToolCallRequest] = []

    async def approve(request: ToolCallRequest) -> Decision:
        asked.append(request)
        return Decision("deny", reason="not today")

    async def is_large(context: Any, arguments: dict[str, Any], call_id: str) -> bool:
        assert context.context["tenant"] == "contoso"
        return bool(arguments["amount"] > 100)

    @function_tool(needs_approval=is_large)
    def pay(amount: int) -> str:
        return f"paid {amount}"

    async def program(tools: FakeTools) -> Any:
        return [await failure(tools.acall("pay", amount=amount)) for amount in (5, 500)]

    assert await run_code(program, pay, approve_tool=approve) == repr(
        [
            ("returned", "'paid 5'"),
            ("denied", "the user did not approve the call of pay: not today"),
        ]
    )
    assert [one.arguments for one in asked] == [{"amount": 500}]
    made = code_interpreter_tool(tools=[pay], approve_tool=approve)
    assert made.needs_approval is False


async def test_a_guardrail_that_raises_ends_the_code_and_the_run_of_the_agent() -> None:
    @tool_input_guardrail
    def stop(data: Any) -> ToolGuardrailFunctionOutput:
        return ToolGuardrailFunctionOutput.raise_exception()

    @function_tool(tool_input_guardrails=[stop])
    def read() -> str:
        raise AssertionError("it must not run")

    went_on: list[str] = []

    async def program(tools: FakeTools) -> Any:
        went_on.append((await failure(tools.acall("read")))[0])
        await anyio.sleep_forever()

    async with CodeInterpreter(pool_of(program)) as interpreter, client_of() as (client, model):
        tool = code_interpreter_tool(interpreter, tools=[read])
        agent = Agent("a", model=OpenAIChatCompletionsModel("scripted", client), tools=[tool])
        with anyio.fail_after(60), pytest.raises(ToolInputGuardrailTripwireTriggered):
            await Runner.run(agent, "go", context={"session_id": "a"})
    assert went_on in ([], ["denied"])
    assert len(model.requests) == 1


class client_of:  # noqa: N801 - used as a function
    """A client of a model that runs code for every question."""

    async def __aenter__(self) -> tuple[AsyncOpenAI, ScriptedModel]:
        self.model = ScriptedModel("1").__enter__()
        self.client = AsyncOpenAI(base_url=self.model.url, api_key="none-needed")
        return self.client, self.model

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        self.model.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tools": [search_orders, search_orders]}, "several tools are called 'search_orders'"),
        ({"tools": ["refund"]}, "tools has a str"),
        ({"tools": refund}, "tools is a FunctionTool"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        code_interpreter_tool(**options)
