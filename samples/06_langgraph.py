"""A graph of your own with the tool, which streams output while the code runs.

Run `pip install ".[local,langchain]" langgraph langchain-openai` in the checkout.
"""

from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from models import open_langchain_model, run_sample

from cci_plugins import CodeInterpreter
from cci_plugins.langchain import CodeInterpreterTool
from cci_plugins.testing import Script, Turn

CODE = """
sieve = bytearray([1]) * 1_000_000
sieve[:2] = bytes(2)
for i in range(2, 1000):
    if sieve[i]:
        sieve[i * i :: i] = bytes(len(sieve[i * i :: i]))
print(sum(sieve), "primes")"""
QUESTION = "How many primes are there below a million?"
SCRIPT = Script((Turn(QUESTION, CODE, r"(?P<count>\d+) primes", "There are {count}."),))


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter, open_langchain_model() as chat:
        tools = [CodeInterpreterTool(interpreter=interpreter)]
        model = chat.bind_tools(tools)

        async def think(state: MessagesState) -> dict[str, list[object]]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph = StateGraph(MessagesState).add_node(think).add_node("tools", ToolNode(tools))
        graph.add_edge(START, "think").add_edge("tools", "think")
        graph.add_conditional_edges("think", tools_condition)

        question = {"messages": [("user", QUESTION)]}
        alice = {"configurable": {"thread_id": "alice"}}
        modes = ["custom", "values"]
        async for mode, chunk in graph.compile().astream(question, alice, stream_mode=modes):
            print(chunk["text"] if mode == "custom" else chunk["messages"][-1].text, flush=True)


run_sample(main, SCRIPT)
