"""One running bubblewrap sandbox, held by descriptors.

Its life is `start`, `attach`, `limit_first_process`, `find_kernel`, `wait`, `kill`. A self-check
has `attach_check` in place of the middle three. `kill` may come at any moment and twice, also while
`start` is still running.

The descriptors, by name in `_handles`:

- `lifeline`: the write end of boot.py's standard input. When it closes, by `kill` or because the
  app has ended, boot.py exits instead of starting a kernel.
- `init`: a pidfd of the sandbox's first process. Killing that ends every process inside. A pidfd
  never refers to another process that has the same id later.
- `sockets`: the folder of the kernel's Unix sockets. The host connects through it.
- `kernel`: a pidfd of the kernel, for SIGINT.

Order:

- bubblewrap reports its child before it changes the root. Until then `/proc/PID/root` is still the
  host's `/`. `attach` opens nothing below it until this session's own session.json is there.
- `attach` opens the folders before anything is sent to the kernel. So no code of the user has run
  that could have replaced one of them by a link.
- `limit_first_process` and `find_kernel` act from outside. Inside, /proc is read-only, so no code
  can take their values back.
- `kill` never kills bubblewrap first, because its init would wait for it forever. The init ends
  first, by its pidfd or by the lifeline. bubblewrap is killed only 10 s later.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import select
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from cci_plugins.common.shortages import is_shortage
from cci_plugins.errors import FileTransferError, IsolationError, PoolUnavailableError
from cci_plugins.pools.local.folder.session_folder import SessionFolder, open_all
from cci_plugins.pools.local.isolation import uids
from cci_plugins.pools.local.isolation.base import Sandbox
from cci_plugins.pools.local.isolation.kernel_config import build_connection_info
from cci_plugins.pools.local.isolation.launcher.supervisor import list_children
from cci_plugins.pools.local.isolation.managed_process import (
    POLL_SECONDS,
    START_SECONDS,
    ManagedProcess,
    ShieldedStart,
)
from cci_plugins.pools.local.isolation.memory import measure_network, measure_tree
from cci_plugins.pools.local.isolation.tool_sockets import InheritedSocket

# Paths inside the sandbox
HOME, SCRATCH, DATA, SHARED, SOCKET_FOLDER, BOOT = (
    "/home/session",
    "/tmp",  # noqa: S108 - a file system of the sandbox
    "/mnt/data",
    "/dev/shm",  # noqa: S108
    "/run/k",
    "/run/cci",
)
_EMPTY_SECONDS = 10.0
_APPARMOR_HINT = (
    "Ubuntu restricts user namespaces: add an AppArmor profile for /usr/bin/bwrap with `userns,` "
    "(see the troubleshooting page), or in CI `sudo sysctl -w "
    "kernel.apparmor_restrict_unprivileged_userns=0`"
)


class BwrapSandbox(Sandbox):
    """A kernel in its own namespaces, with files in memory that are freed when it ends."""

    child: ManagedProcess
    sockets: int

    def __init__(self, uid: int | None) -> None:
        self.channel = self.tool_socket = InheritedSocket()
        self._uid = uid
        self._shielded_start: ShieldedStart | None = None
        self._init_pid = 0  # as the host numbers it
        self._handles: dict[str, int] = {}

    async def start(self, command: list[str], inherited: list[int]) -> None:
        """Start bubblewrap with the lifeline as standard input and these descriptors."""
        receive, send = os.pipe()
        self._add_handle("lifeline", send)
        self._shielded_start = ShieldedStart(
            ManagedProcess.start(
                command, env={}, pass_fds=[*inherited, self.tool_socket.descriptor], stdin=receive
            )
        )
        try:
            self.child = await self._shielded_start.get_child()
        finally:
            os.close(receive)
            self.tool_socket.close_session_end()

    async def attach(self, info_fd: int, session: bytes, key: str) -> None:
        """Open the sandbox's first process and its folders.

        Args:
            info_fd: Descriptor where bubblewrap reports its child.
            session: Content of this session's session.json.
            key: The HMAC key of the kernel's messages, in hex.

        Raises:
            IsolationError: bubblewrap ended, or the sandbox did not appear in time.
        """
        self._init_pid = (await self._read_child_info(info_fd))["child-pid"]
        self._add_handle("init", _open_pidfd(self._init_pid))
        root = await self._open_root(session)
        try:
            self.sockets = self._add_handle("sockets", _open_folder(SOCKET_FOLDER, root))
            folders = (DATA, SCRATCH, HOME, SHARED, SOCKET_FOLDER)
            data, *scratch = open_all([partial(_open_folder, path, root) for path in folders])
        finally:
            os.close(root)
        owner = None if self._uid is None else (self._uid, self._uid)
        self.folder = SessionFolder(
            data, owner=owner, scratch=tuple(scratch), has_own_filesystems=True
        )
        self.connection = build_connection_info(f"/proc/self/fd/{self.sockets}/k", key)

    async def attach_check(self, info_fd: int) -> None:
        """Open the first process of a self-check, which ends by itself and perhaps has ended.

        Args:
            info_fd: Descriptor where bubblewrap reports its child.

        Raises:
            IsolationError: bubblewrap ended before it had a child.
        """
        self._init_pid = (await self._read_child_info(info_fd))["child-pid"]
        with contextlib.suppress(ProcessLookupError):  # bubblewrap has reaped it
            init = _open_pidfd(self._init_pid)
            if _read_parent(self._init_pid) in {self.child.process.pid, os.getpid()}:
                self._add_handle("init", init)
            else:  # another process has its number now
                os.close(init)

    def limit_first_process(self, limits: Mapping[str, int]) -> None:
        """Set the resource limits of the sandbox's first process, keyed as for `set_limits`.

        Its files are written by now. Its processes are counted in its own user namespace. Before
        that existed, those that the user runs elsewhere would have counted.
        """
        for name, value in limits.items():
            kind = getattr(resource, "RLIMIT_" + name)
            with contextlib.suppress(ProcessLookupError, ValueError):  # ended; lower already
                resource.prlimit(self._init_pid, kind, (value, value))

    def find_kernel(self) -> None:
        """Open the kernel's process, which `interrupt` needs, and make it first to be killed.

        It has run no code of the user yet, so it has no children that would keep another score.
        """
        for pid in list_children(self._init_pid)[:1]:
            self._add_handle("kernel", _open_pidfd(pid))
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/oom_score_adj").write_text("1000", encoding="ascii")

    async def wait(self) -> int:
        """Wait until the kernel and all its children have ended, and return its exit status."""
        code = await self.child.wait()
        await self._wait_for_init()  # bubblewrap may end a moment before the sandbox does
        return code

    async def _wait_for_init(self) -> None:
        """Wait for the end of the init. Linux ends all other processes of a namespace before."""
        deadline = asyncio.get_running_loop().time() + _EMPTY_SECONDS
        while "init" in self._handles and asyncio.get_running_loop().time() < deadline:
            poller = select.poll()  # select() refuses descriptors above 1,023
            poller.register(self._handles["init"], select.POLLIN)
            if poller.poll(0):
                self._reap_init()
                break
            await asyncio.sleep(POLL_SECONDS)

    def _reap_init(self) -> None:
        """Reap the init if it has become a child of the app, which then is process 1."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._handles["init"], os.WEXITED | os.WNOHANG)

    def interrupt(self) -> bool:
        """Send SIGINT to the kernel."""
        self._signal("kernel", signal.SIGINT)
        return True

    async def kill(self) -> None:
        """End the sandbox's first process, which ends all others, and close every descriptor."""
        if "lifeline" in self._handles:
            os.close(self._handles.pop("lifeline"))
        self._signal("init", signal.SIGKILL)
        child = await self._shielded_start.get_child_or_none() if self._shielded_start else None
        if child is not None:
            self.child = child
            await self._wait_or_kill()
        self.remove_cgroup()
        self.tool_socket.close()
        if hasattr(self, "folder"):
            self.folder.close()
        while self._handles:
            os.close(self._handles.popitem()[1])
        uid, self._uid = self._uid, None
        uids.release(uid)

    async def _wait_or_kill(self) -> None:
        """Wait for the end. Kill bubblewrap only if that takes too long."""
        try:
            async with asyncio.timeout(_EMPTY_SECONDS):
                await self.wait()
        except TimeoutError:
            self.child.kill()

    def egress_socket_path(self) -> tuple[str, str]:
        """Return a path in the folder of the kernel's sockets."""
        return f"/proc/self/fd/{self.sockets}/egress", f"{SOCKET_FOLDER}/egress"

    def list_roots(self) -> list[int]:
        """List the sandbox's first process, unless it was ended."""
        return [self._init_pid] if "init" in self._handles else []

    def measure_memory(self) -> int:
        """Return the bytes that processes, sockets and files use. The files live in memory too."""
        if "init" not in self._handles:
            return 0
        pid = self._init_pid
        return measure_tree(pid) + measure_network(pid) + self._measure_files()

    def _measure_files(self) -> int:
        with contextlib.suppress(FileTransferError):  # the session has just ended
            return self.folder.measure_bytes()
        return 0

    def _add_handle(self, name: str, descriptor: int) -> int:
        self._handles[name] = descriptor
        return descriptor

    def _signal(self, name: str, number: signal.Signals) -> None:
        if name in self._handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handles[name], number)

    async def _read_child_info(self, info_fd: int) -> dict[str, int]:
        """Wait for bubblewrap's JSON about the process that it started."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(ValueError):
                return dict(json.loads(os.pread(info_fd, 4096, 0)))
            if self.child.has_ended:
                raise _add_hint(await self.child.build_exit_error("bwrap"))
            await asyncio.sleep(POLL_SECONDS)
        raise IsolationError(f"bwrap did not report its process within {START_SECONDS:.0f} s")

    async def _open_root(self, session: bytes) -> int:
        """Wait for the sandbox's root and open it."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        path = f"/proc/{self._init_pid}/root"
        while asyncio.get_running_loop().time() < deadline:
            try:
                root = os.open(path, os.O_PATH | os.O_DIRECTORY)
                with contextlib.ExitStack() as stack:
                    stack.callback(os.close, root)
                    if _read_content(f"{BOOT[1:]}/session.json", root) == session:
                        stack.pop_all()
                        return root
            except OSError as error:  # it has not been mounted yet
                if is_shortage(error):
                    raise
            if self.child.has_ended:
                raise _add_hint(await self.child.build_exit_error("bwrap"))
            await asyncio.sleep(POLL_SECONDS)
        raise IsolationError(f"the sandbox did not appear at {path} within {START_SECONDS:.0f} s")


def _open_pidfd(pid: int) -> int:
    return os.pidfd_open(pid)


def _read_parent(pid: int) -> int | None:
    """Return the process id of a process's parent, None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[1])


def _open_folder(path: str, root: int) -> int:
    return os.open(path[1:], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)


def _read_content(path: str, root: int) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=root)
    with os.fdopen(file, "rb") as stream:
        return stream.read()


def _add_hint(
    error: IsolationError | PoolUnavailableError,
) -> IsolationError | PoolUnavailableError:
    """Give an error of bubblewrap the hint for its reason, and return it."""
    text = str(error)
    if "uid map: Permission denied" in text or "RTM_NEWADDR" in text:
        error.hint = _APPARMOR_HINT
    elif "new namespace" in text:
        error.hint = "user namespaces are refused here, as in most containers"
    return error
