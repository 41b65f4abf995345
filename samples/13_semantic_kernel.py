"""A Semantic Kernel agent. Set OPENAI_API_KEY.

Semantic Kernel passes no thread id to a plugin, so the program names the session.
"""

import asyncio
import os

from openai import AsyncOpenAI
from semantic_kernel.agents import ChatCompletionAgent, ChatHistoryAgentThread
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion

from cci_plugins import CodeInterpreter
from cci_plugins.semantic_kernel import CodeInterpreterPlugin


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter, AsyncOpenAI() as client:
        model = os.environ.get("OPENAI_MODEL", "gpt-5.6-luna")
        agent = ChatCompletionAgent(
            service=OpenAIChatCompletion(ai_model_id=model, async_client=client),
            instructions="Use execute_code for arithmetic.",
            plugins=[CodeInterpreterPlugin(interpreter)],
        )
        thread = ChatHistoryAgentThread(thread_id="alice")
        with interpreter.use_session(thread.id):
            for question in ("What is 2 to the power of 100?", "And its square root?"):
                print(await agent.get_response(question, thread=thread))


asyncio.run(main())
