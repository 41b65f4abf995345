"""Files in and out with LangChain: `python -m samples.analysis.with_langchain`."""

from langchain.agents import create_agent
from langchain_core.messages import ToolMessage

from cci_plugins import CodeInterpreter, Session
from cci_plugins.langchain import CodeInterpreterTool
from samples.analysis.task import INSTRUCTIONS, QUESTION, main, show_tool_text
from samples.models import open_langchain_model


async def answer(interpreter: CodeInterpreter, session: Session) -> str:
    async with open_langchain_model() as model:
        tools = [CodeInterpreterTool(interpreter=interpreter)]
        agent = create_agent(model, tools=tools, system_prompt=INSTRUCTIONS)
        config = {"configurable": {"thread_id": session.key}}
        state = await agent.ainvoke({"messages": [("user", QUESTION)]}, config)
    for message in state["messages"]:
        if isinstance(message, ToolMessage):
            show_tool_text(message.text)
    return str(state["messages"][-1].text)


if __name__ == "__main__":
    main("langchain", answer)
