"""The task that each framework's agent gets, and the code that saves its files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from cci_plugins import CodeInterpreter, Session
from cci_plugins.testing import Script, Turn
from samples.models import run_sample

DATA = Path(__file__).parents[1] / "data" / "penguins.csv"
OUTPUT = Path("out")
INSTRUCTIONS = "You are a careful analyst. Compute every number with the tool."
QUESTION = (
    "Analyse penguins.csv: what is the mean body mass of each species? "
    "Save the table as summary.csv and a bar chart of it as chart.png."
)
CODE = """\
import matplotlib.pyplot as plt
import pandas as pd

mass = pd.read_csv("penguins.csv").groupby("species")["body_mass_g"].mean().round(1)
mass.to_csv("summary.csv")
ax = mass.plot.bar(rot=0, ylabel="body mass (g)", xlabel="", title="Mean body mass")
ax.bar_label(ax.containers[0])
plt.savefig("chart.png")
plt.close()
print(mass.to_string())"""
SCRIPT = Script(
    (Turn(QUESTION, CODE, r"Gentoo\s+(?P<grams>\d+\.\d)", "Gentoo are the heaviest: {grams} g."),)
)
Answer = Callable[[CodeInterpreter, Session], Awaitable[str]]


def show_tool_text(text: object) -> None:
    """Print the tool's text for the model."""
    print(f"the tool returned:\n{text}\n")


async def analyse(name: str, answer: Answer) -> None:
    """Upload the data, let the agent work, and save the files that it created."""
    async with CodeInterpreter.from_env() as interpreter:
        session = interpreter.session(name)
        await session.files.upload(DATA)
        print("answer:", await answer(interpreter, session))
        for file in await session.files.list():
            if file.name != DATA.name:
                to = OUTPUT / name / file.name
                print("saved", await session.files.download(file.name, to=to, overwrite=True))


def main(name: str, answer: Answer) -> None:
    """Run the task with the configured model, or else with the scripted one."""
    run_sample(lambda: analyse(name, answer), SCRIPT)
