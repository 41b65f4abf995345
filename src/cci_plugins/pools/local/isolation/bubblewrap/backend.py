"""The strongest fence: bubblewrap's namespaces, our seccomp filter, resource limits."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import stat
from collections.abc import Iterator
from typing import Any, ClassVar

import anyio

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.common.settings import IsolationName
from cci_plugins.errors import IsolationError
from cci_plugins.pools.local.isolation import self_check, uids
from cci_plugins.pools.local.isolation.base import Isolation, KernelSpec, Sandbox
from cci_plugins.pools.local.isolation.interpreter import Interpreter, inspect
from cci_plugins.pools.local.isolation.kernel_config import (
    SandboxOptions,
    connection,
    describe_limits,
    describe_session,
)
from cci_plugins.pools.local.isolation.launcher import LAUNCHER
from cci_plugins.pools.local.isolation.managed_process import (
    START_SECONDS,
    run_program,
    wait_for_sockets,
)
from cci_plugins.pools.local.isolation.memory import count_own_threads
from cci_plugins.pools.local.isolation.seccomp import build_session_filter, is_supported

from .command import BOOT, PLAIN_UID, SOCKET_FOLDER, Bubblewrap, build_account_files
from .sandbox import BwrapSandbox

_OLDEST_VERSION = (0, 5)
_LIMITS_BY_NAMESPACE = (5, 14)
_BOOT_FILES = ("boot.py", "lockdown.py")


class BwrapIsolation(Isolation):
    """Namespaces by bubblewrap: no host files, processes, network or names in sight."""

    name: ClassVar[IsolationName] = "bwrap"

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits
        self._bwrap: Bubblewrap | None = None

    def describe(self) -> str:
        """One line for people."""
        version = ".".join(map(str, self._bwrap.version)) if self._bwrap else "?"
        return f"bwrap {version} + seccomp; network none; {describe_limits(self._limits)}"

    async def run_self_check(self, spec: KernelSpec) -> None:
        """Put up the fence once and check from inside that it holds.

        Raises:
            IsolationError: It does not hold here.
        """
        self._bwrap = await find_bubblewrap()
        if not self._bwrap.supports_tmpfs_size:
            self.limitations = (
                "this bubblewrap is older than 0.7: files in memory are bounded by the watchdog",
            )
        interpreter = await inspect(spec.python)
        with self_check.create_canary_file() as canary:
            sandbox = await self._start(
                spec,
                interpreter,
                check=self_check.build_self_check(canary, interpreter, own_network=True),
            )
            try:
                with anyio.fail_after(START_SECONDS):
                    await self_check.wait_for_result(sandbox.child)
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
            await wait_for_sockets(sandbox.sockets, sandbox.child)
            sandbox.find_kernel()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await sandbox.kill()
            raise
        return sandbox

    async def _start(
        self, spec: KernelSpec, interpreter: Interpreter, check: dict[str, Any] | None = None
    ) -> BwrapSandbox:
        bwrap = self._bwrap or await find_bubblewrap()
        uid = uids.allocate() if os.geteuid() == 0 else None
        sandbox = BwrapSandbox(uid)
        try:
            session = _describe(spec, uid, check)
            with contextlib.ExitStack() as stack:
                files = {
                    place: stack.enter_context(_open_memory_file(data))
                    for place, data in _build_files(session, uid).items()
                }
                program = build_session_filter(own_network=True, guard_metadata=False)
                filter_ = stack.enter_context(_open_memory_file(program))
                # not a pipe: bubblewrap would die of writing to it when we have gone, and leave its
                # init behind
                info = stack.enter_context(_open_memory_file(b""))
                command = bwrap.command(
                    interpreter, spec.limits,
                    uid=uid, files=files, info=info, program=filter_,
                )  # fmt: skip
                inherited = [*files.values(), filter_, info]
                await sandbox.start(command, inherited)
                await sandbox.attach(info, session, spec.key)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await sandbox.kill()
            raise
        return sandbox


def _describe(spec: KernelSpec, uid: int | None, check: dict[str, Any] | None) -> bytes:
    return describe_session(
        spec,
        SandboxOptions(uid=uid, lifeline=True, other_threads=_count_other_threads(uid)),
        kernel_connection=connection(f"{SOCKET_FOLDER}/k", spec.key),
        connection_file=f"{SOCKET_FOLDER}/connection.json",
        check=check,
    )


def _build_files(session: bytes, uid: int | None) -> dict[str, bytes]:
    """What to put into the sandbox, by path."""
    boot = {f"{BOOT}/{name}": (LAUNCHER / name).read_bytes() for name in _BOOT_FILES}
    return {**build_account_files(uid or PLAIN_UID), **boot, f"{BOOT}/session.json": session}


def _count_other_threads(uid: int | None) -> int:
    """Threads that count against the session's limit, before Linux 5.14 counted by namespace."""
    release = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
    return count_own_threads() if uid is None and release < _LIMITS_BY_NAMESPACE else 0


@contextlib.contextmanager
def _open_memory_file(content: bytes) -> Iterator[int]:
    """A descriptor to read this content from."""
    file = os.memfd_create("cci")
    try:
        os.write(file, content)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


async def find_bubblewrap() -> Bubblewrap:
    """The installed bubblewrap.

    Raises:
        IsolationError: There is none that may be used.
    """
    path = shutil.which("bwrap", path="/usr/bin") or shutil.which("bwrap")
    if path is None:
        raise IsolationError("bubblewrap is not installed", hint="apt install bubblewrap")
    if os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):  # noqa: PTH116 - one call
        raise IsolationError(f"{path} is set-uid root", hint="install a bubblewrap without set-uid")
    if not is_supported():
        raise IsolationError("there is no seccomp filter for this kind of machine")
    text = (await run_program(path, "--version"))[1].decode(errors="replace")
    version = tuple(map(int, re.findall(r"\d+", text)[:3]))
    if version < _OLDEST_VERSION:
        raise IsolationError(f"{path} is too old: {text.strip()}", hint="upgrade bubblewrap to 0.8")
    return Bubblewrap(path, version)
