"""An agent of the OpenAI Agents SDK that asks you before code runs.

Run `pip install ".[local,openai-agents]"` in the checkout. Without a key, a script is the model.
"""

import asyncio
from typing import Any

from agents import Agent, OpenAIResponsesModel, RunConfig, Runner, RunResult, SQLiteSession
from models import POWERS, get_model_name, open_openai_client, run_sample

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
    async with CodeInterpreter.from_env() as interpreter, open_openai_client() as client:
        model = OpenAIResponsesModel(get_model_name(), client)
        tools: Any = [code_interpreter_tool(interpreter, needs_approval=True)]
        agent: Agent[Any] = Agent("analyst", model=model, tools=tools)
        session = SQLiteSession("alice")
        for question in ("What is 2 to the power of 100?", "And its square root?"):
            print(await answer(agent, question, session))
        session.close()


run_sample(main, POWERS)
