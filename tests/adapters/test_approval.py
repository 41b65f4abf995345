"""Asking before code runs, by each framework's own means, driven by the scripted model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cci_plugins import CodeInterpreter
from cci_plugins.testing import ScriptedModel

from .test_what_the_model_sees import result_seen

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        ({"type": "approve"}, "42"),
        (
            {
                "type": "edit",
                "edited_action": {"name": "execute_code", "args": {"code": "print(6 * 8)"}},
            },
            "48",
        ),
        ({"type": "reject", "message": "Not today."}, "Not today."),
    ],
)
async def test_langchains_middleware_asks_a_person(
    warm: CodeInterpreter,
    scripted: Callable[..., ScriptedModel],
    decision: dict[str, Any],
    expected: str,
) -> None:
    from langchain.agents import create_agent
    from langchain.agents.middleware import HumanInTheLoopMiddleware
    from langchain_openai import ChatOpenAI
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.types import Command
    from openai import DefaultAsyncHttpxClient

    from cci_plugins.langchain import CodeInterpreterTool

    model = scripted(("go", "print(6 * 7)"))
    key = f"asking-{decision['type']}"
    async with DefaultAsyncHttpxClient() as http:
        agent = create_agent(
            ChatOpenAI(
                model="scripted", base_url=model.url, api_key="none", http_async_client=http
            ),
            tools=[CodeInterpreterTool(interpreter=warm)],
            middleware=[HumanInTheLoopMiddleware(interrupt_on={"execute_code": True})],
            checkpointer=InMemorySaver(),
        )
        thread: Any = {"configurable": {"thread_id": key}}
        state = await agent.ainvoke({"messages": [("user", "go")]}, thread)
        (asked,) = state["__interrupt__"][0].value["action_requests"]
        assert asked["args"] == {"code": "print(6 * 7)"}
        await agent.ainvoke(Command(resume={"decisions": [decision]}), thread)
    assert expected in result_seen(model)
    ran = await warm.session(key).run_code("len(In) > 2")
    assert ran.text == str(decision["type"] != "reject")


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_filter_of_semantic_kernel_asks_a_person(
    warm: CodeInterpreter, scripted: Callable[..., ScriptedModel], *, allowed: bool
) -> None:
    from openai import AsyncOpenAI
    from semantic_kernel import Kernel
    from semantic_kernel.agents import ChatCompletionAgent
    from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion
    from semantic_kernel.filters import AutoFunctionInvocationContext, FilterTypes
    from semantic_kernel.functions import FunctionResult

    from cci_plugins.semantic_kernel import CodeInterpreterPlugin

    model = scripted(("go", "print(6 * 7)"))
    kernel, asked = Kernel(), []

    @kernel.filter(FilterTypes.AUTO_FUNCTION_INVOCATION)
    async def ask(
        context: AutoFunctionInvocationContext,
        next: Callable[[AutoFunctionInvocationContext], Awaitable[None]],  # noqa: A002 - its name
    ) -> None:
        asked.append(context.arguments["code"])
        if allowed:
            await next(context)
        else:
            refused = "The user did not approve it."
            context.function_result = FunctionResult(
                function=context.function.metadata, value=refused
            )

    async with AsyncOpenAI(base_url=model.url, api_key="none") as client:
        kernel.add_service(OpenAIChatCompletion(ai_model_id="scripted", async_client=client))
        kernel.add_plugin(CodeInterpreterPlugin(warm), "code_interpreter")
        agent = ChatCompletionAgent(kernel=kernel)
        with warm.use_session(f"filter-{allowed}"):
            await agent.get_response("go")
    assert asked == ["print(6 * 7)"]
    assert result_seen(model) == ("42" if allowed else "The user did not approve it.")
