"""Files in and out with Agent Framework: `python -m samples.analysis.with_agent_framework`."""

from agent_framework import Agent
from agent_framework.openai import OpenAIChatClient

from cci_plugins import CodeInterpreter, Session
from cci_plugins.agent_framework import CodeInterpreterProvider
from samples.analysis.task import INSTRUCTIONS, QUESTION, main, show_tool_text
from samples.models import get_model_name, open_openai_client


async def answer(interpreter: CodeInterpreter, session: Session) -> str:
    async with open_openai_client() as client:
        agent = Agent(
            OpenAIChatClient(model=get_model_name(), async_client=client),
            instructions=INSTRUCTIONS,
            context_providers=[CodeInterpreterProvider(interpreter)],
        )
        reply = await agent.run(QUESTION, session=agent.create_session(session_id=session.key))
    for message in reply.messages:
        for content in message.contents:
            if content.type == "function_result":
                show_tool_text(content.result)
    return str(reply)


if __name__ == "__main__":
    main("agent-framework", answer)
