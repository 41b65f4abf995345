"""A group of agents that share one session: `python -m samples.semantic_kernel_group`.

One of Semantic Kernel's orchestrations calls them in turn. The first agent loads the data, and the
second continues with its variables. The runtime calls the agents from its own task, where
`use_session` has no effect, so the plugin names the session. Run `pip install protobuf` first.
"""

from semantic_kernel.agents import (
    ChatCompletionAgent,
    GroupChatOrchestration,
    RoundRobinGroupChatManager,
)
from semantic_kernel.agents.runtime import InProcessRuntime
from semantic_kernel.contents import ChatMessageContent

from cci_plugins import CodeInterpreter
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from cci_plugins.testing import Script, Turn
from samples.analysis.task import DATA
from samples.models import open_semantic_kernel_service, run_sample

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


def show(message: ChatMessageContent) -> None:
    if message.content:  # otherwise it calls a function
        print(f"{message.name}: {message.content}")


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter, open_semantic_kernel_service() as service:
        await interpreter.session("team").files.upload(DATA)
        plugins = [CodeInterpreterPlugin(interpreter, session_key="team")]
        parts = {"loader": LOAD, "analyst": ANALYSE}
        group = GroupChatOrchestration(
            members=[
                ChatCompletionAgent(
                    service=service, name=name, description=part, instructions=part, plugins=plugins
                )
                for name, part in parts.items()
            ],
            manager=RoundRobinGroupChatManager(max_rounds=len(parts)),
            agent_response_callback=show,
        )
        runtime = InProcessRuntime()
        runtime.start()
        try:
            result = await group.invoke("How long are the penguins' flippers?", runtime)
            await result.get()
        finally:
            await runtime.stop_when_idle()


if __name__ == "__main__":
    run_sample(main, SCRIPT)
