"""A graph of your own with the tool, which streams output while the code runs."""

import asyncio
import os

from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from cci_plugins import CodeInterpreter
from cci_plugins.langchain import CodeInterpreterTool


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter:
        tools = [CodeInterpreterTool(interpreter=interpreter)]
        model = ChatOpenAI(model=os.environ.get("OPENAI_MODEL", "gpt-5.6-luna")).bind_tools(tools)

        async def think(state: MessagesState) -> dict[str, list[object]]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph = StateGraph(MessagesState)
        graph.add_node("think", think)
        graph.add_node("tools", ToolNode(tools))
        graph.add_edge(START, "think")
        graph.add_conditional_edges("think", tools_condition)
        graph.add_edge("tools", "think")

        question = {"messages": [("user", "How many primes are there below a million?")]}
        alice = {"configurable": {"thread_id": "alice"}}
        modes = ["custom", "values"]
        async for mode, chunk in graph.compile().astream(question, alice, stream_mode=modes):
            print(chunk["text"] if mode == "custom" else chunk["messages"][-1].text, flush=True)


asyncio.run(main())
