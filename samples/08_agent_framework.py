"""An Agent Framework agent whose session is the conversation. Without a key, a script is the model.

Run `pip install ".[local,agent-framework]" agent-framework-openai` in the checkout.
"""

from pathlib import Path

from agent_framework import Agent
from agent_framework.openai import OpenAIChatClient
from models import POWERS, get_model_name, open_openai_client, run_sample

from cci_plugins import CodeInterpreter
from cci_plugins.agent_framework import CodeInterpreterProvider

DATA = Path(__file__).with_name("data") / "penguins.csv"


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter, open_openai_client() as client:
        agent = Agent(
            OpenAIChatClient(model=get_model_name(), async_client=client),
            instructions="Use execute_code for arithmetic.",
            context_providers=[CodeInterpreterProvider(interpreter, file_mounts=DATA)],
        )
        session = agent.create_session(session_id="alice")
        for question in ("What is 2 to the power of 100?", "And its square root?"):
            print(await agent.run(question, session=session))
        print([file.name for file in await interpreter.session("alice").files.list()])


run_sample(main, POWERS)
