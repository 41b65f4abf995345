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
from .managed_process import Child

_HOME_ENTRIES = 50


@contextlib.contextmanager
def planted_file() -> Iterator[str]:
    """A file that any user of this machine may read, and a session must not."""
    file, path = tempfile.mkstemp(prefix="cci-check-")
    try:
        os.write(file, b"a session must not read this")
        os.fchmod(file, 0o644)
        yield path
    finally:
        os.close(file)
        Path(path).unlink()


def expectations(secret: str, interpreter: Interpreter, *, own_network: bool) -> dict[str, Any]:
    """What boot.py must find refused.

    Args:
        secret: A file to be out of reach.
        interpreter: The Python; the way to its folders may be in sight.
        own_network: An empty network namespace is fine; otherwise IP sockets must be refused.
    """
    return {
        "unreadable": [secret, "/etc/shadow", *_private(interpreter)],
        "unwritable": ["/", "/usr", "/etc"],
        "own_network": own_network,
    }


def _private(interpreter: Interpreter) -> list[str]:
    """Some of what lies in our home, apart from the interpreter."""
    try:
        places = [str(entry) for entry in Path.home().iterdir()]
    except OSError:
        return []
    on_the_way = (*interpreter.folders, interpreter.executable)
    return [
        place
        for place in places
        if not any(path == place or path.startswith(place + "/") for path in on_the_way)
    ][:_HOME_ENTRIES]


async def verdict(child: Child) -> None:
    """Wait for the check's answer.

    Raises:
        IsolationError: Something was not refused, or the check could not run.
    """
    code, words = await child.wait(), await child.last_words()
    if code != 0:
        reason = words.splitlines()[-1] if words else f"status {code}"
        raise IsolationError(f"the fence does not hold: {reason}")
