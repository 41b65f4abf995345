"""A LangChain agent whose `thread_id` names the conversation. Set OPENAI_API_KEY."""

import asyncio
import os

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

from cci_plugins import CodeInterpreter
from cci_plugins.langchain import CodeInterpreterTool


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter:
        agent = create_agent(
            ChatOpenAI(model=os.environ.get("OPENAI_MODEL", "gpt-5.6-luna")),
            tools=[CodeInterpreterTool(interpreter=interpreter)],
            checkpointer=InMemorySaver(),
        )
        alice = {"configurable": {"thread_id": "alice"}}
        for question in ("What is 2 to the power of 100?", "And its square root?"):
            state = await agent.ainvoke({"messages": [("user", question)]}, alice)
            print(state["messages"][-1].text)


asyncio.run(main())
