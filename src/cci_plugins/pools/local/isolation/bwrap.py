"""The strongest fence: bubblewrap's namespaces, our seccomp filter, resource limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import re
import select
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anyio

from cci_plugins.errors import FileTransferError, IsolationError
from cci_plugins.limits import SandboxLimits
from cci_plugins.pools.local.folder import SessionFolder

from . import check, uids
from .base import Isolation, KernelSpec, Sandbox
from .bwrap_command import (
    BOOT,
    DATA,
    HOME,
    PLAIN_UID,
    SCRATCH,
    SHARED,
    SOCKET_FOLDER,
    Bubblewrap,
    account_files,
)
from .child import POLL_SECONDS, START_SECONDS, Child, sockets_ready
from .interpreter import Interpreter, inspect
from .memory import children, own_threads, tree_bytes
from .seccomp import session_filter, supported
from .session import Fence, connection, describe_limits, describe_session

_OLDEST = (0, 5)
_EMPTY_SECONDS = 10.0
_LIMITS_BY_NAMESPACE = (5, 14)
_BOOT_FILES = ("boot.py", "lockdown.py")
_APPARMOR = (
    "Ubuntu restricts user namespaces: add an AppArmor profile for /usr/bin/bwrap with `userns,` "
    "(see the troubleshooting page), or in CI `sudo sysctl -w "
    "kernel.apparmor_restrict_unprivileged_userns=0`"
)


class BwrapIsolation(Isolation):
    """Namespaces by bubblewrap: no host files, processes, network or names in sight."""

    name: Literal["bwrap"] = "bwrap"

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits
        self._bwrap: Bubblewrap | None = None

    def describe(self) -> str:
        """One line for people."""
        version = ".".join(map(str, self._bwrap.version)) if self._bwrap else "?"
        return f"bwrap {version} + seccomp; network none; {describe_limits(self._limits)}"

    async def probe(self, spec: KernelSpec) -> None:
        """Put up the fence once and check from inside that it holds.

        Raises:
            IsolationError: It does not hold here.
        """
        self._bwrap = await find()
        if not self._bwrap.bounds_tmpfs:
            self.weaker = (
                "this bubblewrap is older than 0.7: files in memory are bounded by the watchdog",
            )
        interpreter = await inspect(spec.python)
        with check.planted_file() as secret:
            sandbox = await self._start(
                spec, interpreter, check=check.expectations(secret, interpreter, own_network=True)
            )
            try:
                with anyio.fail_after(START_SECONDS):
                    await check.verdict(sandbox.child)
            except TimeoutError as error:
                raise IsolationError("the check of bwrap did not end") from error
            finally:
                with anyio.CancelScope(shield=True):
                    await sandbox.kill()

    async def launch(self, spec: KernelSpec) -> Sandbox:
        """Start a kernel and wait until it listens.

        Raises:
            IsolationError: The fence could not be put up.
        """
        sandbox = await self._start(spec, await inspect(spec.python))
        try:
            await sockets_ready(sandbox.sockets, sandbox.child)
            sandbox.find_kernel()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await sandbox.kill()
            raise
        return sandbox

    async def _start(
        self, spec: KernelSpec, interpreter: Interpreter, check: dict[str, Any] | None = None
    ) -> BwrapSandbox:
        bwrap = self._bwrap or await find()
        uid = uids.take() if os.geteuid() == 0 else None
        session = describe_session(
            spec,
            Fence(uid=uid, other_threads=_other_threads(uid)),
            inside=connection(f"{SOCKET_FOLDER}/k", spec.key),
            connection_file=f"{SOCKET_FOLDER}/connection.json",
            check=check,
        )
        contents = account_files(uid or PLAIN_UID)
        contents[f"{BOOT}/session.json"] = session
        for name in _BOOT_FILES:
            contents[f"{BOOT}/{name}"] = Path(__file__).with_name(name).read_bytes()
        sandbox = BwrapSandbox(uid)
        try:
            with contextlib.ExitStack() as stack:
                files = {
                    place: stack.enter_context(_memory(data)) for place, data in contents.items()
                }
                program = stack.enter_context(
                    _memory(session_filter(own_network=True, guard_metadata=False))
                )
                told, tell = os.pipe()
                stack.callback(os.close, told)
                with contextlib.closing(os.fdopen(tell, "wb")):
                    command = bwrap.command(
                        interpreter, spec.limits, uid=uid, files=files, info=tell, program=program
                    )
                    sandbox.child = await Child.start(
                        command, env={}, pass_fds=[*files.values(), program, tell]
                    )
                await sandbox.enter(told, session, spec.key)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await sandbox.kill()
            raise
        return sandbox


class BwrapSandbox(Sandbox):
    """A kernel in namespaces of its own; its files live in memory and die with it."""

    child: Child
    sockets: int

    def __init__(self, uid: int | None) -> None:
        self._uid = uid
        self._first = 0  # process id of the sandbox's own init
        self._handles: dict[str, int] = {}  # what: descriptor

    async def enter(self, told: int, session: bytes, key: str) -> None:
        """Take hold of the sandbox's folders, before anything of the session can run."""
        os.set_blocking(told, False)
        self._first = (await self._told(told))["child-pid"]
        self._handle("init", _process(self._first))
        root = await self._root(session)
        try:
            self.sockets = self._handle("sockets", _folder(SOCKET_FOLDER, root))
            places = [_folder(place, root) for place in (DATA, SCRATCH, HOME, SHARED)]
        finally:
            os.close(root)
        owner = None if self._uid is None else (self._uid, self._uid)
        self.folder = SessionFolder(
            places[0], owner=owner, scratch=tuple(places[1:]), whole_mounts=True
        )
        self.connection = connection(f"/proc/self/fd/{self.sockets}/k", key)

    def find_kernel(self) -> None:
        """Remember the kernel's process, to interrupt it."""
        for pid in children(self._first)[:1]:
            self._handle("kernel", _process(pid))

    async def wait(self) -> int:
        """Wait until the kernel and all its children have ended; its exit status."""
        code = await self.child.wait()
        await self._emptied()  # bwrap itself may end a moment before the sandbox does
        return code

    async def _emptied(self) -> None:
        """Wait for the end of the sandbox's init, before which the kernel ends all others."""
        deadline = asyncio.get_running_loop().time() + _EMPTY_SECONDS
        while "init" in self._handles and asyncio.get_running_loop().time() < deadline:
            if select.select([self._handles["init"]], [], [], 0)[0]:
                break
            await asyncio.sleep(POLL_SECONDS)

    def interrupt(self) -> None:
        """Send SIGINT to the kernel."""
        self._signal("kernel", signal.SIGINT)

    async def kill(self) -> None:
        """End the sandbox's first process, which ends all others; free its memory."""
        self._signal("init", signal.SIGKILL)
        if hasattr(self, "child"):
            if "init" not in self._handles:
                self.child.kill()
            await self.wait()
        if hasattr(self, "folder"):
            self.folder.close()
        while self._handles:
            os.close(self._handles.popitem()[1])
        uid, self._uid = self._uid, None
        uids.give_back(uid)

    def memory_bytes(self) -> int:
        """Memory of all processes and of all files, which live in memory too."""
        if "init" not in self._handles:
            return 0
        return tree_bytes(self._first) + self._file_bytes()

    def _file_bytes(self) -> int:
        with contextlib.suppress(FileTransferError):  # the session ended in between
            return self.folder.held_bytes()
        return 0

    def _handle(self, what: str, descriptor: int) -> int:
        self._handles[what] = descriptor
        return descriptor

    def _signal(self, what: str, number: signal.Signals) -> None:
        if what in self._handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handles[what], number)

    async def _told(self, told: int) -> dict[str, int]:
        """What bubblewrap says about the process it started."""
        text = b""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(BlockingIOError):
                text += os.read(told, 4096)
            with contextlib.suppress(ValueError):
                return dict(json.loads(text))
            if self.child.ended:
                raise _explained(await self.child.failure("bwrap"))
            await asyncio.sleep(POLL_SECONDS)
        raise IsolationError("bwrap said nothing")

    async def _root(self, session: bytes) -> int:
        """The sandbox's root, once it is there: before, this path is still the host's root."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        place = f"/proc/{self._first}/root"
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(OSError):
                root = os.open(place, os.O_PATH | os.O_DIRECTORY)
                with contextlib.ExitStack() as stack:
                    stack.callback(os.close, root)
                    if _content(f"{BOOT[1:]}/session.json", root) == session:
                        stack.pop_all()
                        return root
            if self.child.ended:
                raise _explained(await self.child.failure("bwrap"))
            await asyncio.sleep(POLL_SECONDS)
        raise IsolationError("the sandbox's folders cannot be reached through /proc")


def _other_threads(uid: int | None) -> int:
    """Threads that count against the session's limit, before Linux 5.14 counted by namespace."""
    release = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
    return own_threads() if uid is None and release < _LIMITS_BY_NAMESPACE else 0


def _process(pid: int) -> int:
    return os.pidfd_open(pid)


def _folder(place: str, root: int) -> int:
    return os.open(place[1:], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)


def _content(path: str, root: int) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=root)
    with os.fdopen(file, "rb") as stream:
        return stream.read()


@contextlib.contextmanager
def _memory(content: bytes) -> Iterator[int]:
    """A descriptor to read this content from."""
    file = os.memfd_create("cci")
    try:
        os.write(file, content)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


async def find() -> Bubblewrap:
    """The installed bubblewrap.

    Raises:
        IsolationError: There is none that may be used.
    """
    path = shutil.which("bwrap", path="/usr/bin") or shutil.which("bwrap")
    if path is None:
        raise IsolationError("bubblewrap is not installed", hint="apt install bubblewrap")
    if os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):  # noqa: PTH116 - one call
        raise IsolationError(f"{path} is set-uid root", hint="install a bubblewrap without set-uid")
    if not supported():
        raise IsolationError("there is no seccomp filter for this kind of machine")
    process = await asyncio.create_subprocess_exec(
        path, "--version", stdout=asyncio.subprocess.PIPE, env={}
    )
    text = (await process.communicate())[0].decode(errors="replace")
    version = tuple(map(int, re.findall(r"\d+", text)[:3]))
    if version < _OLDEST:
        raise IsolationError(f"{path} is too old: {text.strip()}", hint="upgrade bubblewrap to 0.8")
    return Bubblewrap(path, version)


def _explained(error: IsolationError) -> IsolationError:
    """The same error with what to do about it."""
    text = str(error)
    if "uid map: Permission denied" in text or "RTM_NEWADDR" in text:
        error.hint = _APPARMOR
    elif "new namespace" in text:
        error.hint = "user namespaces are refused here, as in most containers"
    return error
