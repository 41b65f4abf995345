"""A graph that asks before code runs: `python -m samples.langgraph_approval`.

A node interrupts the graph with the code. The checkpointer keeps the state until a person answers
`a` (approve), `e` (edit) or `r` (reject). If it keeps the state outside the process, the answer may
come days later.
"""

import asyncio
from typing import Any, Literal

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt

from cci_plugins import CodeInterpreter
from cci_plugins.langchain import CodeInterpreterTool
from cci_plugins.testing import Script, Turn
from samples.models import open_langchain_model, run_sample

QUESTION = "What is 2 to the power of 100?"
SCRIPT = Script((Turn(QUESTION, "print(2 ** 100)", r"(?P<n>\d+)", "The tool returned {n}."),))


async def review(state: MessagesState) -> Command[Literal["tools", "think"]]:
    """Show each call to a person, and return the calls that the person approved or edited.

    An edited call replaces the old one, because its message has the same id. All calls go into one
    interrupt, and nothing runs before it, because the node runs again from its start on resuming.
    """
    request = state["messages"][-1]
    assert isinstance(request, AIMessage)
    decisions = interrupt([call["args"]["code"] for call in request.tool_calls])
    if any(decision["type"] == "reject" for decision in decisions):
        refusals = [
            ToolMessage("A person rejected this code.", tool_call_id=call["id"], status="error")
            for call in request.tool_calls
        ]
        return Command(goto="think", update={"messages": refusals})
    calls = [
        {**call, "args": {"code": decision.get("code", call["args"]["code"])}}
        for call, decision in zip(request.tool_calls, decisions, strict=True)
    ]
    edited = request.model_copy(update={"tool_calls": calls})
    return Command(goto="tools", update={"messages": [edited]})


def build(chat: Any, interpreter: CodeInterpreter) -> Any:
    """Build the graph: think, review, tools, and think again."""
    tools = [CodeInterpreterTool(interpreter=interpreter)]
    thinker = chat.bind_tools(tools)

    async def think(state: MessagesState) -> dict[str, list[Any]]:
        return {"messages": [await thinker.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("review", review)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition, {"tools": "review", "__end__": "__end__"})
    graph.add_edge("tools", "think")
    return graph.compile(checkpointer=InMemorySaver())


def decide(code: str) -> dict[str, str]:
    """Ask on the terminal. Any other answer is a rejection."""
    answer = input(f"{code}\n[a]pprove, [e]dit or [r]eject? ")
    if answer == "e":
        return {"type": "edit", "code": input("code instead: ")}
    return {"type": "approve" if answer == "a" else "reject"}


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter, open_langchain_model() as chat:
        graph = build(chat, interpreter)
        alice = {"configurable": {"thread_id": "alice"}}
        state = await graph.ainvoke({"messages": [("user", QUESTION)]}, alice)
        while "__interrupt__" in state:
            codes = state["__interrupt__"][0].value
            decisions = [await asyncio.to_thread(decide, code) for code in codes]
            state = await graph.ainvoke(Command(resume=decisions), alice)
        print("\nanswer:", state["messages"][-1].text)


if __name__ == "__main__":
    run_sample(main, SCRIPT)
