"""An agent of the OpenAI Agents SDK that asks you before code runs. Set OPENAI_API_KEY."""

import asyncio
import os
from typing import Any

from agents import Agent, OpenAIResponsesModel, RunConfig, Runner, RunResult, SQLiteSession
from openai import AsyncOpenAI

from cci_plugins import CodeInterpreter
from cci_plugins.openai_agents import code_interpreter_tool

QUIET = RunConfig(tracing_disabled=True)  # otherwise the SDK sends traces to OpenAI


async def answer(agent: Agent[Any], question: str, session: SQLiteSession) -> str:
    context = {"session_id": session.session_id}
    result: RunResult = await Runner.run(
        agent, question, context=context, session=session, run_config=QUIET
    )
    while result.interruptions:
        state = result.to_state()
        for call in result.interruptions:
            print(call.arguments)
            allowed = await asyncio.to_thread(input, "run it? [y/N] ") == "y"
            state.approve(call) if allowed else state.reject(call)
        result = await Runner.run(agent, state, session=session, run_config=QUIET)
    return str(result.final_output)


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter, AsyncOpenAI() as client:
        model = OpenAIResponsesModel(os.environ.get("OPENAI_MODEL", "gpt-5.6-luna"), client)
        tools: Any = [code_interpreter_tool(interpreter, needs_approval=True)]
        agent: Agent[Any] = Agent("analyst", model=model, tools=tools)
        session = SQLiteSession("alice")
        for question in ("What is 2 to the power of 100?", "And its square root?"):
            print(await answer(agent, question, session))
        session.close()


asyncio.run(main())
