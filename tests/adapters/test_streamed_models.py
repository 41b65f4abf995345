"""Models that stream their replies: the tool's code arrives in pieces and runs whole."""

from __future__ import annotations

from collections.abc import Callable

import agents
import pytest
from agent_framework import Agent
from agent_framework.openai import OpenAIChatCompletionClient
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion

from cci_plugins import CodeInterpreter
from cci_plugins.agent_framework import CodeInterpreterProvider
from cci_plugins.langchain import CodeInterpreterTool
from cci_plugins.openai_agents import code_interpreter_tool
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from cci_plugins.testing import Script, ScriptedModel, Turn

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CODE = "\n".join(f"x{number} = {number} * 'piece '" for number in range(20)) + "\nprint(len(x19))"
SCRIPT = Script((Turn("go", CODE, r"(?P<n>\d+)", "The last of them is {n} characters long."),))
ANSWER = "The last of them is 114 characters long."


async def stream_langchain(
    interpreter: CodeInterpreter, model: ScriptedModel, *, responses: bool = False
) -> list[str]:
    async with DefaultAsyncHttpxClient() as http:
        chat = ChatOpenAI(
            model="scripted",
            base_url=model.url,
            api_key="none-needed",
            http_async_client=http,
            streaming=True,
            use_responses_api=responses,
        )
        agent = create_agent(chat, tools=[CodeInterpreterTool(interpreter=interpreter)])
        given, config = {"messages": [("user", "go")]}, {"configurable": {"thread_id": "streamed"}}
        return [
            message.text
            async for message, about in agent.astream(given, config, stream_mode="messages")
            if about["langgraph_node"] == "model" and message.text
        ]


async def stream_responses(interpreter: CodeInterpreter, model: ScriptedModel) -> list[str]:
    return await stream_langchain(interpreter, model, responses=True)


async def stream_semantic_kernel(interpreter: CodeInterpreter, model: ScriptedModel) -> list[str]:
    async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
        agent = ChatCompletionAgent(
            service=OpenAIChatCompletion(ai_model_id="scripted", async_client=client),
            plugins=[CodeInterpreterPlugin(interpreter)],
        )
        with interpreter.use_session("streamed"):
            return [str(piece) async for piece in agent.invoke_stream("go") if str(piece)]


async def stream_agent_framework(interpreter: CodeInterpreter, model: ScriptedModel) -> list[str]:
    async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
        chat = OpenAIChatCompletionClient(model="scripted", async_client=client)
        agent = Agent(chat, context_providers=[CodeInterpreterProvider(interpreter)])
        stream = agent.run("go", stream=True, session=agent.create_session(session_id="streamed"))
        return [update.text async for update in stream if update.text]


async def stream_openai_agents(interpreter: CodeInterpreter, model: ScriptedModel) -> list[str]:
    async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
        agent = agents.Agent(
            "analyst",
            model=agents.OpenAIResponsesModel("scripted", client),
            tools=[code_interpreter_tool(interpreter)],
        )
        quiet = agents.RunConfig(tracing_disabled=True, group_id="streamed")
        stream = agents.Runner.run_streamed(agent, "go", run_config=quiet)
        return [
            event.data.delta
            async for event in stream.stream_events()
            if event.type == "raw_response_event"
            and event.data.type == "response.output_text.delta"
        ]


@pytest.mark.parametrize(
    "ask",
    [
        stream_agent_framework,
        stream_langchain,
        stream_openai_agents,
        stream_responses,
        stream_semantic_kernel,
    ],
)
async def test_streamed_calls_run_whole_and_answers_stream(
    ask: Callable[..., object], warm: CodeInterpreter
) -> None:
    with ScriptedModel(SCRIPT) as model:
        pieces: list[str] = await ask(warm, model)  # type: ignore[misc]
    assert "".join(pieces) == ANSWER
    assert len(pieces) > 1
    assert all(body["stream"] for _, body in model.requests)
    assert len(model.requests) == 2
