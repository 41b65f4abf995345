"""Child processes of the app, with the end of their standard error kept for error messages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from cci_plugins.common.shortages import find_hint, find_hint_in, is_shortage
from cci_plugins.errors import ConfigurationError, IsolationError, PoolUnavailableError

from .kernel_config import SOCKETS

START_SECONDS = 60.0
POLL_SECONDS = 0.003
_TAIL_BYTES = 4096


def check_child_signal() -> None:
    """Check that the end of a child process can be noticed.

    Raises:
        ConfigurationError: This process ignores SIGCHLD, so the system discards exit statuses.
    """
    number = getattr(signal, "SIGCHLD", None)
    if number is not None and signal.getsignal(number) == signal.SIG_IGN:
        raise ConfigurationError(
            "this process ignores SIGCHLD, so the end of a session cannot be noticed",
            hint="call signal.signal(signal.SIGCHLD, signal.SIG_DFL) before you start the pool",
        )


class ManagedProcess:
    """One child process that any number of tasks may wait for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._tail = bytearray()
        self._drain_task = asyncio.create_task(self._drain_stderr())

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int = asyncio.subprocess.DEVNULL,
    ) -> Self:
        """Start a program from the calling thread.

        That thread must outlive the program: Linux sends the signal of PR_SET_PDEATHSIG when the
        thread ends that forked, not when its process does.

        Args:
            command: The program and its arguments.
            env: Its whole environment.
            cwd: Its working folder. None for that of the app.
            pass_fds: Descriptors that it inherits.
            stdin: Descriptor of its standard input.

        Raises:
            IsolationError: The program could not be started.
            PoolUnavailableError: The system has no room for another process now.
            ConfigurationError: This process ignores SIGCHLD.
        """
        check_child_signal()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=stdin,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=dict(env),
                cwd=cwd,
                pass_fds=pass_fds,
            )
        except (OSError, RuntimeError) as error:
            what = f"cannot start {command[0]}: {getattr(error, 'strerror', error)}"
            if is_shortage(error):
                raise PoolUnavailableError(what, hint=find_hint(error)) from error
            if isinstance(error, RuntimeError):
                raise
            raise IsolationError(what) from error
        return cls(process)

    async def _drain_stderr(self) -> None:
        stream = self.process.stderr
        while stream is not None and (data := await stream.read(65536)):
            self._tail += data
            del self._tail[:-_TAIL_BYTES]

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.returncode is not None

    async def wait(self) -> int:
        """Wait for the end and return the exit status, or 128 + n when signal n killed it."""
        code = await self.process.wait()
        return 128 - code if code < 0 else code

    @property
    def stderr_tail(self) -> str:
        """The end of what the process has written to standard error."""
        return self._tail.decode(errors="replace").strip()

    async def read_stderr_tail(self) -> str:
        """Wait for the end and return the end of standard error."""
        await self.wait()
        await asyncio.wait([self._drain_task], timeout=1)
        return self.stderr_tail

    def kill(self) -> None:
        """Send SIGKILL if the process still runs."""
        if not self.has_ended:
            self.process.kill()

    async def build_exit_error(self, what: str) -> IsolationError | PoolUnavailableError:
        """Build the error for a process that ended too early."""
        code, message = await self.wait(), await self.read_stderr_tail()
        text = f"{what} ended with status {code}: {message or 'no message'}"
        if (hint := find_hint_in(message)) is not None:  # any backend would fail now
            return PoolUnavailableError(text, hint=hint)
        return IsolationError(text)


class ShieldedStart:
    """The start of a child, which always completes even when its caller is cancelled.

    asyncio before 3.12 can hang forever when `create_subprocess_exec` is cancelled halfway.
    bubblewrap leaves its sandbox behind when it is killed at that moment. So the start is never
    interrupted, and the cleanup waits here for the child that it has to end.
    """

    def __init__(self, start: Coroutine[Any, Any, ManagedProcess]) -> None:
        self._task = asyncio.create_task(start)

    async def get_child(self) -> ManagedProcess:
        """Wait until the child has started and return it.

        Raises:
            IsolationError: The program could not be started.
        """
        return await asyncio.shield(self._task)

    async def get_child_or_none(self) -> ManagedProcess | None:
        """Wait for the child and return it, or None when it could not be started."""
        with contextlib.suppress(Exception):  # `get_child` raised it
            return await self.get_child()
        return None


async def run_program(*command: str | Path) -> tuple[int, bytes]:
    """Run a short program to its end and return its exit status and standard output.

    A cancelled caller does not interrupt it, for the reasons of `ShieldedStart`.

    Raises:
        OSError: It could not be started.
    """
    return await asyncio.shield(asyncio.create_task(_run_program(command)))


async def _run_program(command: Sequence[str | Path]) -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out


async def wait_for_sockets(folder: int, child: ManagedProcess) -> None:
    """Wait until the kernel listens on its five Unix sockets.

    A client that connects earlier waits for zmq's back-off: 0.97 s until ready, not 0.48 s.

    Args:
        folder: Descriptor of the folder of the sockets.
        child: The process whose end means that the kernel failed to start.

    Raises:
        IsolationError: The kernel ended, or did not listen in time.
    """
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while not all(_is_socket(name, folder) for name in SOCKETS):
        if child.has_ended:
            raise await child.build_exit_error("the kernel")
        if asyncio.get_running_loop().time() > deadline:
            raise IsolationError(
                f"the kernel did not listen within {START_SECONDS:.0f} s: {child.stderr_tail}"
            )
        await asyncio.sleep(POLL_SECONDS)


def _is_socket(name: str, folder: int) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False
