"""A LangChain agent whose `thread_id` names the conversation. Without a key, a script is the model.

Run `pip install ".[local,langchain]" langchain langchain-openai` in the checkout.
"""

from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from models import POWERS, open_langchain_model, run_sample

from cci_plugins import CodeInterpreter
from cci_plugins.langchain import CodeInterpreterTool


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter, open_langchain_model() as model:
        tool = CodeInterpreterTool(interpreter=interpreter)
        agent = create_agent(model, tools=[tool], checkpointer=InMemorySaver())
        alice = {"configurable": {"thread_id": "alice"}}
        for question in ("What is 2 to the power of 100?", "And its square root?"):
            state = await agent.ainvoke({"messages": [("user", question)]}, alice)
            print(state["messages"][-1].text)


run_sample(main, POWERS)
