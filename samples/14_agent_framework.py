"""An Agent Framework agent whose session is the conversation. Set OPENAI_API_KEY."""

import asyncio
import os
from pathlib import Path

from agent_framework import Agent
from agent_framework.openai import OpenAIChatClient
from openai import AsyncOpenAI

from cci_plugins import CodeInterpreter
from cci_plugins.agent_framework import CodeInterpreterProvider

DATA = Path(__file__).with_name("data") / "penguins.csv"


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter, AsyncOpenAI() as client:
        model = os.environ.get("OPENAI_MODEL", "gpt-5.6-luna")
        agent = Agent(
            OpenAIChatClient(model=model, async_client=client),
            instructions="Use execute_code for arithmetic.",
            context_providers=[CodeInterpreterProvider(interpreter, file_mounts=DATA)],
        )
        session = agent.create_session(session_id="alice")
        for question in ("What is 2 to the power of 100?", "And its square root?"):
            print(await agent.run(question, session=session))
        print([file.name for file in await interpreter.session("alice").files.list()])


asyncio.run(main())
