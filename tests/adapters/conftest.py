"""A shared embedded pool, and frameworks driven over real HTTP by the scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from samples.scripted_model import Script, ScriptedModel, Turn

from cci_plugins import CodeInterpreter, Limits, LocalSessionPool
from cci_plugins.langchain import CodeInterpreterTool
from cci_plugins.semantic_kernel import CodeInterpreterPlugin

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
    interpreter: CodeInterpreter, model: ScriptedModel, key: str, question: str, **options: Any
) -> str:
    from langchain.agents import create_agent
    from langchain_openai import ChatOpenAI
    from openai import DefaultAsyncHttpxClient

    async with DefaultAsyncHttpxClient() as http:  # LangChain would leave its own open
        options |= {"base_url": model.url, "api_key": "none-needed", "http_async_client": http}
        chat = ChatOpenAI(model="scripted", **options)
        agent = create_agent(chat, tools=[CodeInterpreterTool(interpreter=interpreter)])
        config = {"configurable": {"thread_id": key}}
        state = await agent.ainvoke({"messages": [("user", question)]}, config)
        return str(state["messages"][-1].text)


async def ask_responses(
    interpreter: CodeInterpreter, model: ScriptedModel, key: str, question: str
) -> str:
    return await ask_langchain(interpreter, model, key, question, use_responses_api=True)


async def ask_semantic_kernel(
    interpreter: CodeInterpreter, model: ScriptedModel, key: str, question: str
) -> str:
    from openai import AsyncOpenAI
    from semantic_kernel.agents import ChatCompletionAgent
    from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion

    async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
        agent = ChatCompletionAgent(
            service=OpenAIChatCompletion(ai_model_id="scripted", async_client=client),
            plugins=[CodeInterpreterPlugin(interpreter)],
        )
        with interpreter.use_session(key):
            return str(await agent.get_response(question))


FRAMEWORKS: dict[str, Ask] = {
    "langchain": ask_langchain,
    "langchain-responses": ask_responses,
    "semantic-kernel": ask_semantic_kernel,
}


@pytest.fixture(params=FRAMEWORKS)
def ask(request: pytest.FixtureRequest) -> Ask:
    return FRAMEWORKS[request.param]


@pytest.fixture
async def warm(interpreter: CodeInterpreter) -> CodeInterpreter:
    await interpreter.start()
    return interpreter
