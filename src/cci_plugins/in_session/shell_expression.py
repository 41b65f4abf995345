"""A shell command as one Python expression, for sessions that take nothing but Python."""

from __future__ import annotations

import ast
import re
import shlex

# One expression leaves the names of the session alone. Its value is the exit code.
_TEMPLATE = """\
(lambda sub, sys, which: (lambda done: (
    sys.stdout.write(done.stdout.decode(errors="replace")),
    sys.stderr.write(done.stderr.decode(errors="replace")),
    done.returncode)[-1])(sub.run({command}, stdin=sub.DEVNULL, capture_output=True{shell}))
)(__import__("subprocess"), __import__("sys"), __import__("shutil").which)
"""
_COMMAND = re.compile(r"\)\(sub\.run\((.*), stdin=sub\.DEVNULL, capture_output=True")
_SHELL = ', shell=True, executable=which("bash") or "/bin/sh"'


def build_shell_code(command: str | list[str]) -> str:
    """Return Python source that runs a command and evaluates to its exit code.

    Args:
        command: A command line for the shell, or a program and its arguments.
    """
    shell = _SHELL if isinstance(command, str) else ""
    return _TEMPLATE.format(command=ascii(command), shell=shell)


def describe_shell_code(code: str) -> str | None:
    """Return the command of source that `build_shell_code` built, after a `!`, or else None."""
    match = _COMMAND.search(code)
    try:
        command = None if match is None else ast.literal_eval(match[1])
        if command is None or build_shell_code(command) != code:
            return None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return f"!{command if isinstance(command, str) else shlex.join(command)}"
