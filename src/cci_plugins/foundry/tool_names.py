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
# Only a gateway with `--wait` offers it, since Foundry ends a call after 100 seconds.
CHECK_RUN = "check_run"

_SHORT_RUNS = "A call must end within 100 seconds."
_LONG_RUNS = (
    f"If an answer has the status Running, the code goes on. Call {CHECK_RUN} with action wait and "
    "the run that the answer names, until you have its result. Do not run the code again."
)
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
6. {_SHORT_RUNS} Nobody can answer input().
7. If the code fails, read the traceback, correct the code and run it again. If an environment is \
no longer found, call {LAUNCH} again and repeat the earlier steps.
"""


def get_tools(*, check_runs: bool) -> tuple[str, ...]:
    """Return the tools that a model may call by default.

    Args:
        check_runs: Whether it may check runs that take long.
    """
    return (*TOOLS, CHECK_RUN) if check_runs else TOOLS


def get_instructions(*, check_runs: bool) -> str:
    """Return the instructions for a model that calls the pool's tools.

    Args:
        check_runs: Whether it may check runs that take long.
    """
    return INSTRUCTIONS.replace(_SHORT_RUNS, _LONG_RUNS) if check_runs else INSTRUCTIONS


def add_launch_names(tools: Sequence[str]) -> list[str]:
    """Return the tools, with every name of the launch tool if they have one of them."""
    launch = LAUNCH_NAMES if any(is_launch_tool(name) for name in tools) else ()
    return list(dict.fromkeys([*tools, *launch]))


def is_launch_tool(name: str) -> bool:
    """Return whether a tool only launches an environment. Its name has changed more than once."""
    return get_own_name(name).lower().startswith("launch")


def runs_no_code(name: str) -> bool:
    """Return whether a tool runs no code, so that nobody needs to approve its calls."""
    return is_launch_tool(name) or get_own_name(name) == CHECK_RUN


def get_own_name(name: str) -> str:
    """Return the name that a pool gave its tool. A toolbox adds its server's label before it."""
    return re.split(r"___|\.", name)[-1]
