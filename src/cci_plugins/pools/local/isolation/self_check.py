"""Self-check of a backend: a trial sandbox must refuse what a session may not do."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import anyio

from cci_plugins.common.shortages import find_hint_in
from cci_plugins.errors import IsolationError, PoolUnavailableError

from .interpreter import Interpreter, find_home
from .managed_process import START_SECONDS, ManagedProcess

_HOME_ENTRIES = 50
_SYSTEM_FOLDERS = frozenset(
    {
        *("/bin", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/mnt", "/nix"),
        *("/proc", "/run", "/sbin", "/sys", "/tmp", "/usr"),  # noqa: S108 - a name to skip
    }
)


class _TrialSandbox(Protocol):
    child: ManagedProcess

    async def kill(self) -> None: ...


async def run(
    name: str,
    interpreter: Interpreter,
    start: Callable[[dict[str, Any]], Awaitable[_TrialSandbox]],
    *,
    own_network: bool,
) -> None:
    """Start a sandbox that checks itself from inside, and wait for its result.

    Args:
        name: The backend's name, for error messages.
        interpreter: The Python of the sandbox. Its own folders may be visible inside.
        start: Starts a sandbox whose boot.py runs the given check in place of a kernel.
        own_network: The sandbox has its own network namespace, where IP sockets lead nowhere.
            Otherwise it must refuse IP sockets.

    Raises:
        IsolationError: The sandbox did not start, did not finish, or allowed something.
        PoolUnavailableError: The system has no room for it now.
    """
    with _create_canary_file() as canary:
        check = {
            "unreadable": [canary, "/etc/shadow", *_list_home_entries(interpreter)],
            "unwritable": ["/", "/usr", "/etc"],
            "own_network": own_network,
        }
        sandbox = await start(check)
        try:
            with anyio.fail_after(START_SECONDS):
                code, message = await sandbox.child.wait(), await sandbox.child.read_stderr_tail()
        except TimeoutError as error:
            raise IsolationError(
                f"the self-check of {name} did not finish within {START_SECONDS:.0f} s"
            ) from error
        finally:
            with anyio.CancelScope(shield=True):
                await sandbox.kill()
    if code != 0:
        reason = message.splitlines()[-1] if message else f"status {code}"
        text = f"the sandbox failed its self-check: {reason}"
        if (hint := find_hint_in(reason)) is not None:  # any backend would fail now
            raise PoolUnavailableError(text, hint=hint)
        raise IsolationError(text)


@contextlib.contextmanager
def _create_canary_file() -> Iterator[str]:
    """Create a file that any user of this machine may read, and a session must not."""
    file, path = tempfile.mkstemp(prefix="cci-check-")
    try:
        os.write(file, b"a session must not read this")
        os.fchmod(file, 0o644)
        yield path
    finally:
        os.close(file)
        Path(path).unlink()


def _list_home_entries(interpreter: Interpreter) -> list[str]:
    """List some entries of the home folder, without those on the path to the interpreter."""
    home = find_home()
    try:
        entries = [] if home is None else [str(entry) for entry in Path(home).iterdir()]
    except OSError:
        return []
    if home == "/":  # of a user without a home folder, as in `docker run --user`
        entries = [entry for entry in entries if entry not in _SYSTEM_FOLDERS]
    needed_paths = (*interpreter.folders, interpreter.executable)
    return [
        entry
        for entry in entries
        if not any(path == entry or path.startswith(entry + "/") for path in needed_paths)
    ][:_HOME_ENTRIES]
