"""A shared embedded pool, and frameworks driven over real HTTP by the scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import pytest

from cci_plugins import CodeInterpreter, Limits, LocalSessionPool
from cci_plugins.testing import Script, ScriptedModel, Turn

Ask = Callable[[CodeInterpreter, ScriptedModel, str, str], Awaitable[str]]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[CodeInterpreter]:
    limits = Limits(execution_timeout=timedelta(seconds=3))
    made = CodeInterpreter(LocalSessionPool(preload=()), limits=limits)
    yield made
    asyncio.run(made.aclose())


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedModel]]:
    """Makes a model whose every question runs the code that is the question's own text."""
    open_models: list[ScriptedModel] = []

    def make(*turns: tuple[str, str]) -> ScriptedModel:
        script = Script(
            tuple(Turn(question, code, r"(?s)(?P<all>.*)", "seen") for question, code in turns)
        )
        model = ScriptedModel(script)
        model.__enter__()
        open_models.append(model)
        return model

    yield make
    for model in open_models:
        model.__exit__(None, None, None)


async def ask_langchain(
    interpreter: CodeInterpreter,
    model: ScriptedModel,
    key: str,
    question: str,
    *,
    tool: dict[str, Any] | None = None,
    checks_runs: bool = False,
    middleware: tuple[Any, ...] = (),
    **options: Any,
) -> str:
    from langchain.agents import create_agent
    from langchain_openai import ChatOpenAI
    from openai import DefaultAsyncHttpxClient

    from cci_plugins.langchain import CodeInterpreterTool

    async with DefaultAsyncHttpxClient() as http:  # LangChain would leave its own open
        options |= {"base_url": model.url, "api_key": "none-needed", "http_async_client": http}
        chat = ChatOpenAI(model="scripted", **options)
        tools: list[Any] = [CodeInterpreterTool(interpreter=interpreter, **(tool or {}))]
        tools += [tools[0].check_run_tool()] if checks_runs else []
        tools += [tools[0].install_packages_tool()] if tools[0].options.install_packages else []
        agent = create_agent(chat, tools=tools, middleware=middleware)
        config = {"configurable": {"thread_id": key}}
        state = await agent.ainvoke({"messages": [("user", question)]}, config)
        return str(state["messages"][-1].text)


async def ask_responses(
    interpreter: CodeInterpreter, model: ScriptedModel, key: str, question: str, **options: Any
) -> str:
    return await ask_langchain(interpreter, model, key, question, use_responses_api=True, **options)


async def ask_semantic_kernel(
    interpreter: CodeInterpreter,
    model: ScriptedModel,
    key: str,
    question: str,
    *,
    show: bool = False,
    **options: Any,
) -> str:
    from openai import AsyncOpenAI
    from semantic_kernel.agents import ChatCompletionAgent
    from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion

    from cci_plugins.semantic_kernel import CodeInterpreterPlugin, images_as_user_messages

    async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
        service = OpenAIChatCompletion(ai_model_id="scripted", async_client=client)
        agent = ChatCompletionAgent(
            service=images_as_user_messages(images_as_user_messages(service)) if show else service,
            plugins=[CodeInterpreterPlugin(interpreter, **options)],
        )
        with interpreter.use_session(key):
            return str(await agent.get_response(question))


async def ask_semantic_kernel_responses(
    interpreter: CodeInterpreter, model: ScriptedModel, key: str, question: str, **options: Any
) -> str:
    from openai import AsyncOpenAI
    from semantic_kernel.agents import OpenAIResponsesAgent

    from cci_plugins.semantic_kernel import CodeInterpreterPlugin

    async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
        agent = OpenAIResponsesAgent(
            ai_model_id="scripted",
            client=client,
            name="analyst",
            plugins=[CodeInterpreterPlugin(interpreter, **options)],
        )
        with interpreter.use_session(key):
            return str(await agent.get_response(question))


async def ask_agent_framework(
    interpreter: CodeInterpreter,
    model: ScriptedModel,
    key: str,
    question: str,
    *,
    responses: bool = False,
    **options: Any,
) -> str:
    from agent_framework import Agent
    from agent_framework.openai import OpenAIChatClient, OpenAIChatCompletionClient
    from openai import AsyncOpenAI

    from cci_plugins.agent_framework import CodeInterpreterProvider

    make: Any = OpenAIChatClient if responses else OpenAIChatCompletionClient
    async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
        provider = CodeInterpreterProvider(interpreter, **options)
        chat = make(model="scripted", async_client=client)
        agent = Agent(chat, context_providers=[provider])
        reply = await agent.run(question, session=agent.create_session(session_id=key))
        return str(reply.text)


async def ask_agent_framework_responses(
    interpreter: CodeInterpreter, model: ScriptedModel, key: str, question: str
) -> str:
    return await ask_agent_framework(interpreter, model, key, question, responses=True)


async def ask_openai_agents(
    interpreter: CodeInterpreter,
    model: ScriptedModel,
    key: str,
    question: str,
    *,
    responses: bool = False,
    show: bool = False,
    **options: Any,
) -> str:
    from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, RunConfig, Runner
    from openai import AsyncOpenAI

    from cci_plugins.openai_agents import code_interpreter_tools, images_as_user_messages

    make: Any = OpenAIResponsesModel if responses else OpenAIChatCompletionsModel
    config = RunConfig(
        tracing_disabled=True, call_model_input_filter=images_as_user_messages if show else None
    )
    async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
        tools: Any = code_interpreter_tools(interpreter, **options)
        agent = Agent("analyst", model=make("scripted", client), tools=tools)
        context = {"session_id": key}
        return str(
            (await Runner.run(agent, question, context=context, run_config=config)).final_output
        )


async def ask_openai_agents_responses(
    interpreter: CodeInterpreter, model: ScriptedModel, key: str, question: str
) -> str:
    return await ask_openai_agents(interpreter, model, key, question, responses=True)


ALL: dict[str, tuple[str, Ask]] = {
    "agent-framework": ("agent_framework", ask_agent_framework),
    "agent-framework-responses": ("agent_framework", ask_agent_framework_responses),
    "langchain": ("langchain", ask_langchain),
    "langchain-responses": ("langchain", ask_responses),
    "openai-agents": ("agents", ask_openai_agents),
    "openai-agents-responses": ("agents", ask_openai_agents_responses),
    "semantic-kernel": ("semantic_kernel", ask_semantic_kernel),
    "semantic-kernel-responses": ("semantic_kernel", ask_semantic_kernel_responses),
}
# The environment `mcp2` lacks some of them. Elsewhere test_every_adapter.py imports each one.
FRAMEWORKS = {name: ask for name, (package, ask) in ALL.items() if find_spec(package)}


@pytest.fixture(params=FRAMEWORKS)
def ask(request: pytest.FixtureRequest) -> Ask:
    return FRAMEWORKS[request.param]


@pytest.fixture
async def warm(interpreter: CodeInterpreter) -> CodeInterpreter:
    await interpreter.start()
    return interpreter
