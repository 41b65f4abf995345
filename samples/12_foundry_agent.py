"""A Foundry agent that analyses a CSV in your session pool and saves a bar chart as a file.

Run `pip install ".[foundry]"` in the checkout, and `az login`. Set FOUNDRY_PROJECT_ENDPOINT,
FOUNDRY_MODEL_DEPLOYMENT_NAME, AZURE_SESSION_POOL_MCP_ENDPOINT and AZURE_SESSION_POOL_MCP_KEY.
"""

from pathlib import Path

from models import run_sample

from cci_plugins import CodeInterpreter, foundry

DATA = Path(__file__).with_name("data") / "penguins.csv"
QUESTION = (
    "Analyse penguins.csv: what is the mean body mass of each species? "
    "Save a bar chart of it as chart.png."
)


async def main() -> None:
    connection = await foundry.connect()  # puts the pool's address and key into the project
    tool = foundry.code_interpreter_tool(connection)
    agent = await foundry.create_agent("penguin-analyst", tool=tool)
    try:
        async with CodeInterpreter.from_env() as interpreter:
            environment = await foundry.open_environment(interpreter)
            await environment.files.upload(DATA)
            reply = await foundry.run(agent, QUESTION, environment=environment)
            for call in reply.calls:
                print(call.code)
            print(reply)
            chart = await environment.files.download("chart.png", to="out/", overwrite=True)
            print("saved", chart)
    finally:
        await foundry.delete_agent(agent)


run_sample(main)
