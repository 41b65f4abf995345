"""Names of the pool's tools, and the instructions for a model that calls them."""

from __future__ import annotations

import re
from collections.abc import Sequence

LABEL = "code_interpreter"
LAUNCH = "launchShell"
# Pools have called it by each of these names. A name that a pool does not have does no harm.
LAUNCH_NAMES = (LAUNCH, "launchShellEnvironment", "launchPythonEnvironment")
RUN_PYTHON = "runPythonCodeInRemoteEnvironment"
RUN_SHELL = "runShellCommandInRemoteEnvironment"
TOOLS = (LAUNCH, RUN_PYTHON)

INSTRUCTIONS = f"""\
You can run Python. Compute with it whatever can be computed; never guess a result.

1. Call {LAUNCH} once, before anything else, and keep the environmentId that it gives. If the \
user names an environmentId, use that one and do not call {LAUNCH}.
2. Run code with {RUN_PYTHON}, always with that same environmentId: variables, imports and files \
are kept between calls. Another id is another, empty environment.
3. pythonCode is plain Python source, without Markdown fences. Only what the code prints comes \
back, and long output is cut, so print() the few lines that you need.
4. Files of the user are in /mnt/data. Save every file for the user there, under a plain name: \
charts with matplotlib's savefig, since plt.show() shows nothing.
5. Never print files, images or base64. Tell the user the names of the files that you saved; \
their application fetches them. Give no sandbox: links.
6. A call must end within 100 seconds. Nobody can answer input().
7. If the code fails, read the traceback, correct the code and run it again. If an environment is \
no longer found, call {LAUNCH} again and repeat the earlier steps.
"""


def add_launch_names(tools: Sequence[str]) -> list[str]:
    """Return the tools, with every name of the launch tool if they have one of them."""
    launch = LAUNCH_NAMES if any(is_launch_tool(name) for name in tools) else ()
    return list(dict.fromkeys([*tools, *launch]))


def is_launch_tool(name: str) -> bool:
    """Return whether a tool only launches an environment. Its name has changed more than once."""
    return get_own_name(name).lower().startswith("launch")


def get_own_name(name: str) -> str:
    """Return the name that a pool gave its tool. A toolbox adds its server's label before it."""
    return re.split(r"___|\.", name)[-1]
