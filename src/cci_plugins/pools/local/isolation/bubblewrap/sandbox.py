"""One running bubblewrap sandbox, held by descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal

from cci_plugins.errors import FileTransferError, IsolationError
from cci_plugins.pools.local.folder.session_folder import SessionFolder
from cci_plugins.pools.local.isolation import uids
from cci_plugins.pools.local.isolation.base import Sandbox
from cci_plugins.pools.local.isolation.kernel_config import connection
from cci_plugins.pools.local.isolation.managed_process import (
    POLL_SECONDS,
    START_SECONDS,
    ManagedProcess,
    ShieldedStart,
)
from cci_plugins.pools.local.isolation.memory import list_children, measure_tree

from .command import BOOT, DATA, HOME, SCRATCH, SHARED, SOCKET_FOLDER

_EMPTY_SECONDS = 10.0
_APPARMOR_HINT = (
    "Ubuntu restricts user namespaces: add an AppArmor profile for /usr/bin/bwrap with `userns,` "
    "(see the troubleshooting page), or in CI `sudo sysctl -w "
    "kernel.apparmor_restrict_unprivileged_userns=0`"
)


class BwrapSandbox(Sandbox):
    """A kernel in namespaces of its own; its files live in memory and die with it."""

    child: ManagedProcess
    sockets: int

    def __init__(self, uid: int | None) -> None:
        self._uid = uid
        self._shielded_start: ShieldedStart | None = None
        self._init_pid = 0  # process id of the sandbox's own init
        self._handles: dict[str, int] = {}  # what: descriptor

    async def start(self, command: list[str], inherited: list[int]) -> None:
        """Start bubblewrap; it ends with us, or when our end of its standard input is closed."""
        receive, send = os.pipe()
        self._add_handle("lifeline", send)
        self._shielded_start = ShieldedStart(
            ManagedProcess.start(command, env={}, pass_fds=inherited, stdin=receive)
        )
        try:
            self.child = await self._shielded_start.child()
        finally:
            os.close(receive)

    async def attach(self, info_fd: int, session: bytes, key: str) -> None:
        """Take hold of the sandbox's folders, before anything of the session can run."""
        self._init_pid = (await self._read_child_info(info_fd))["child-pid"]
        self._add_handle("init", _open_pidfd(self._init_pid))
        root = await self._open_root(session)
        try:
            self.sockets = self._add_handle("sockets", _open_folder(SOCKET_FOLDER, root))
            places = [_open_folder(place, root) for place in (DATA, SCRATCH, HOME, SHARED)]
        finally:
            os.close(root)
        owner = None if self._uid is None else (self._uid, self._uid)
        self.folder = SessionFolder(
            places[0], owner=owner, scratch=tuple(places[1:]), has_own_filesystems=True
        )
        self.connection = connection(f"/proc/self/fd/{self.sockets}/k", key)

    def find_kernel(self) -> None:
        """Remember the kernel's process, to interrupt it."""
        for pid in list_children(self._init_pid)[:1]:
            self._add_handle("kernel", _open_pidfd(pid))

    async def wait(self) -> int:
        """Wait until the kernel and all its children have ended; its exit status."""
        code = await self.child.wait()
        await self._wait_for_init()  # bwrap itself may end a moment before the sandbox does
        return code

    async def _wait_for_init(self) -> None:
        """Wait for the end of the sandbox's init, before which the kernel ends all others."""
        deadline = asyncio.get_running_loop().time() + _EMPTY_SECONDS
        while "init" in self._handles and asyncio.get_running_loop().time() < deadline:
            poller = select.poll()  # select() knows no descriptor above 1,023
            poller.register(self._handles["init"], select.POLLIN)
            if poller.poll(0):
                break
            await asyncio.sleep(POLL_SECONDS)

    def interrupt(self) -> None:
        """Send SIGINT to the kernel."""
        self._signal("kernel", signal.SIGINT)

    async def kill(self) -> None:
        """End the sandbox's first process, which ends all others; free its memory."""
        if "lifeline" in self._handles:
            os.close(self._handles.pop("lifeline"))
        self._signal("init", signal.SIGKILL)
        child = await self._shielded_start.get_child_or_none() if self._shielded_start else None
        if child is not None:
            self.child = child
            await self._wait_or_kill()
        if hasattr(self, "folder"):
            self.folder.close()
        while self._handles:
            os.close(self._handles.popitem()[1])
        uid, self._uid = self._uid, None
        uids.release(uid)

    async def _wait_or_kill(self) -> None:
        """Wait for the end; without a handle on the init, boot.py ends it by the lifeline.

        bubblewrap itself must not be killed before: its init would wait for it for ever.
        """
        try:
            async with asyncio.timeout(_EMPTY_SECONDS):
                await self.wait()
        except TimeoutError:
            self.child.kill()

    def egress_socket_path(self) -> tuple[str, str]:
        """Beside the kernel's own sockets."""
        return f"/proc/self/fd/{self.sockets}/egress", f"{SOCKET_FOLDER}/egress"

    def measure_memory(self) -> int:
        """Memory of all processes and of all files, which live in memory too."""
        if "init" not in self._handles:
            return 0
        return measure_tree(self._init_pid) + self._measure_files()

    def _measure_files(self) -> int:
        with contextlib.suppress(FileTransferError):  # the session ended in between
            return self.folder.measure_bytes()
        return 0

    def _add_handle(self, what: str, descriptor: int) -> int:
        self._handles[what] = descriptor
        return descriptor

    def _signal(self, what: str, number: signal.Signals) -> None:
        if what in self._handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handles[what], number)

    async def _read_child_info(self, info_fd: int) -> dict[str, int]:
        """What bubblewrap says about the process it started."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(ValueError):
                return dict(json.loads(os.pread(info_fd, 4096, 0)))
            if self.child.has_ended:
                raise _add_hint(await self.child.build_exit_error("bwrap"))
            await asyncio.sleep(POLL_SECONDS)
        raise IsolationError("bwrap said nothing")

    async def _open_root(self, session: bytes) -> int:
        """The sandbox's root, once it is there: before, this path is still the host's root."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        place = f"/proc/{self._init_pid}/root"
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(OSError):
                root = os.open(place, os.O_PATH | os.O_DIRECTORY)
                with contextlib.ExitStack() as stack:
                    stack.callback(os.close, root)
                    if _read_content(f"{BOOT[1:]}/session.json", root) == session:
                        stack.pop_all()
                        return root
            if self.child.has_ended:
                raise _add_hint(await self.child.build_exit_error("bwrap"))
            await asyncio.sleep(POLL_SECONDS)
        raise IsolationError("the sandbox's folders cannot be reached through /proc")


def _open_pidfd(pid: int) -> int:
    return os.pidfd_open(pid)


def _open_folder(place: str, root: int) -> int:
    return os.open(place[1:], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)


def _read_content(path: str, root: int) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=root)
    with os.fdopen(file, "rb") as stream:
        return stream.read()


def _add_hint(error: IsolationError) -> IsolationError:
    """The same error with what to do about it."""
    text = str(error)
    if "uid map: Permission denied" in text or "RTM_NEWADDR" in text:
        error.hint = _APPARMOR_HINT
    elif "new namespace" in text:
        error.hint = "user namespaces are refused here, as in most containers"
    return error
