"""`cci run CODE` without options, which needs no parser.

Typer builds its parser with pydantic. Loading both takes as long as everything else before the
sandbox is launched.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from . import console


def run_plainly(arguments: Sequence[str]) -> int | None:
    """Run the code of a command line that has nothing else, and return its exit code.

    Args:
        arguments: Arguments after the command's name.

    Returns:
        None for any other command line.
    """
    is_plain = len(arguments) == 2 and arguments[0] == "run"  # noqa: PLR2004 - the command and code
    if not is_plain or arguments[1].startswith("-") or find_spec("typer") is None:
        return None
    console.set_up_streams()
    console.set_debug(is_on=False)
    try:
        from .run_job import RunOptions, run_code

        return run_code(arguments[1], RunOptions())
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - users get a message
        return console.report_error(error)
