"""What a fence must refuse, and the check of it from inside."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cci_plugins.errors import IsolationError

from .interpreter import Interpreter
from .managed_process import ManagedProcess

_HOME_ENTRIES = 50


@contextlib.contextmanager
def create_canary_file() -> Iterator[str]:
    """A file that any user of this machine may read, and a session must not."""
    file, path = tempfile.mkstemp(prefix="cci-check-")
    try:
        os.write(file, b"a session must not read this")
        os.fchmod(file, 0o644)
        yield path
    finally:
        os.close(file)
        Path(path).unlink()


def build_self_check(canary: str, interpreter: Interpreter, *, own_network: bool) -> dict[str, Any]:
    """What boot.py must find refused.

    Args:
        secret: A file to be out of reach.
        interpreter: The Python; the way to its folders may be in sight.
        own_network: An empty network namespace is fine; otherwise IP sockets must be refused.
    """
    return {
        "unreadable": [canary, "/etc/shadow", *_list_home_entries(interpreter)],
        "unwritable": ["/", "/usr", "/etc"],
        "own_network": own_network,
    }


def _list_home_entries(interpreter: Interpreter) -> list[str]:
    """Some of what lies in our home, apart from the interpreter."""
    try:
        places = [str(entry) for entry in Path.home().iterdir()]
    except OSError:
        return []
    needed_paths = (*interpreter.folders, interpreter.executable)
    return [
        place
        for place in places
        if not any(path == place or path.startswith(place + "/") for path in needed_paths)
    ][:_HOME_ENTRIES]


async def wait_for_result(child: ManagedProcess) -> None:
    """Wait for the check's answer.

    Raises:
        IsolationError: Something was not refused, or the check could not run.
    """
    code, message = await child.wait(), await child.read_stderr_tail()
    if code != 0:
        reason = message.splitlines()[-1] if message else f"status {code}"
        raise IsolationError(f"the fence does not hold: {reason}")
