"""Agents that share one session: `python -m samples.semantic_kernel_group`.

The first loads the data, the second goes on with its variables: both run in the session that
`use_session` names. The agents take turns here; the host hands each answer on.
"""

import asyncio

from semantic_kernel.agents import ChatCompletionAgent

from cci_plugins import CodeInterpreter
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from samples.analysis.task import DATA
from samples.models import model, semantic_kernel_service
from samples.scripted_model import Script, Turn

LOAD = "Load penguins.csv as the DataFrame `penguins` and count its rows."
ANALYSE = "Use the DataFrame `penguins` that is there: what is the mean flipper length?"
SCRIPT = Script(
    (
        Turn(
            LOAD,
            "import pandas as pd\n"
            "penguins = pd.read_csv('penguins.csv')\nprint('rows', len(penguins))",
            r"rows (?P<rows>\d+)",
            "penguins has {rows} rows.",
        ),
        Turn(
            ANALYSE,
            "print('mean', round(penguins['flipper_length_mm'].mean(), 1))",
            r"mean (?P<mean>\d+\.\d)",
            "The mean flipper length is {mean} mm.",
        ),
    )
)


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter, semantic_kernel_service() as service:
        plugins = [CodeInterpreterPlugin(interpreter)]
        loader, analyst = (
            ChatCompletionAgent(service=service, name=name, plugins=plugins)
            for name in ("loader", "analyst")
        )
        await interpreter.session("team").files.upload(DATA)
        with interpreter.use_session("team"):
            loaded = await loader.get_response(LOAD)
            print("loader:", loaded)
            print("analyst:", await analyst.get_response(f"{loaded}\n{ANALYSE}"))


if __name__ == "__main__":
    with model(SCRIPT):
        asyncio.run(main())
