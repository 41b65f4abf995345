"""Files in and out with the OpenAI Agents SDK: `python -m samples.analysis.with_openai_agents`."""

from typing import Any

from agents import Agent, OpenAIResponsesModel, RunConfig, Runner, ToolCallOutputItem

from cci_plugins import CodeInterpreter, Session
from cci_plugins.openai_agents import code_interpreter_tool
from samples.analysis.task import INSTRUCTIONS, QUESTION, main, show_tool_text
from samples.models import get_model_name, open_openai_client

QUIET = RunConfig(tracing_disabled=True)  # otherwise the SDK sends traces to OpenAI


async def answer(interpreter: CodeInterpreter, session: Session) -> str:
    async with open_openai_client() as client:
        model = OpenAIResponsesModel(get_model_name(), client)
        tools: Any = [code_interpreter_tool(interpreter)]
        agent: Agent[Any] = Agent("analyst", INSTRUCTIONS, model=model, tools=tools)
        context = {"session_id": session.key}
        result = await Runner.run(agent, QUESTION, context=context, run_config=QUIET)
    for item in result.new_items:
        if isinstance(item, ToolCallOutputItem):
            show_tool_text(item.output)
    return str(result.final_output)


if __name__ == "__main__":
    main("openai-agents", answer)
