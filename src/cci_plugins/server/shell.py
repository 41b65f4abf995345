"""A shell command as Python code for a session."""

from __future__ import annotations

# One expression, so that no name of the session is touched; its value is the exit code.
_TEMPLATE = """\
(lambda sub, sys, which: (lambda done: (
    sys.stdout.write(done.stdout.decode(errors="replace")),
    sys.stderr.write(done.stderr.decode(errors="replace")),
    done.returncode)[-1])(sub.run({command}, stdin=sub.DEVNULL, capture_output=True{shell}))
)(__import__("subprocess"), __import__("sys"), __import__("shutil").which)
"""
_SHELL = ', shell=True, executable=which("bash") or "/bin/sh"'


def build_shell_code(command: str | list[str]) -> str:
    """Python that runs a command line by the shell, or a program with its arguments."""
    shell = _SHELL if isinstance(command, str) else ""
    return _TEMPLATE.format(command=ascii(command), shell=shell)
