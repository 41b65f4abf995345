"""The fence for places that refuse user namespaces: Landlock, two seccomp filters, a shim."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import ClassVar

import anyio

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.common.settings import IsolationName
from cci_plugins.errors import IsolationError

from . import self_check, uids
from .base import KernelSpec
from .host_folder import HostFolderIsolation
from .interpreter import Interpreter, inspect, is_reachable_by_anyone
from .kernel_config import SandboxOptions, describe_limits
from .managed_process import START_SECONDS
from .seccomp import build_post_start_filter, build_session_filter, is_supported

SCOPED_ABI = 6  # from here on, signals and abstract sockets stay inside
OLDEST_ABI = 3  # before, files could be cut short
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
_FILES = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/mime.types",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/sys/devices/system/cpu",
)
_LIMITATIONS = (
    "names and sizes of files outside the session can be probed, not their contents",
    "the host name and the number of processors are seen, and multiprocessing pools do not work",
    "files of the session lie on the host's disk, bounded by the watchdog",
)
_SIGNALS = "this kernel's Landlock is old: the code can signal other processes of its user"
_THREADS = "the limit of processes counts those that your user starts later as well"
_READS = "file modes do not bind reading below the interpreter's folders, which need root to enter"


class LandlockIsolation(HostFolderIsolation):
    """Landlock limits files, seccomp refuses sockets, and the shim sweeps up."""

    name: ClassVar[IsolationName] = "landlock"

    def __init__(self, limits: SandboxLimits, *, oldest_abi: int = OLDEST_ABI) -> None:
        """Prepare the fence.

        Args:
            limits: What a session may use.
            oldest_abi: The oldest version of Landlock that is good enough.
        """
        super().__init__(limits)
        self._oldest_abi = oldest_abi
        self._abi = 0

    def describe(self) -> str:
        """One line for people."""
        return f"landlock ABI {self._abi} + seccomp; no network; {describe_limits(self._limits)}"

    async def run_self_check(self, spec: KernelSpec) -> None:
        """Put up the fence once and check from inside that it holds.

        Raises:
            IsolationError: It does not hold here.
        """
        self._abi = _abi()
        if self._abi < self._oldest_abi:
            raise IsolationError(
                f"Landlock ABI {self._abi} is older than {self._oldest_abi}"
                if self._abi
                else "this kernel has no Landlock",
                hint="use a newer kernel (6.12 or later)",
            )
        interpreter = await inspect(spec.python)
        self.limitations = self._list_limitations(interpreter)
        with self_check.create_canary_file() as canary:
            expected = self_check.build_self_check(canary, interpreter, own_network=False)
            sandbox = await self._start(spec, interpreter, check=expected)
            try:
                with anyio.fail_after(START_SECONDS):
                    await self_check.wait_for_result(sandbox.child)
            except TimeoutError as error:
                raise IsolationError("the check of landlock did not end") from error
            finally:
                with anyio.CancelScope(shield=True):
                    await sandbox.kill()

    def _list_limitations(self, interpreter: Interpreter) -> tuple[str, ...]:
        root = os.geteuid() == 0
        signals = (_SIGNALS,) if self._abi < SCOPED_ABI and not root else ()
        reads = (_READS,) if root and not _is_reachable(interpreter) else ()
        threads = () if root else (_THREADS,)
        return (*_LIMITATIONS, *threads, *signals, *reads)

    def _allocate_uid(self) -> int | None:
        return uids.allocate() if os.geteuid() == 0 else None

    def _build_options(
        self, base: str, interpreter: Interpreter, uid: int | None
    ) -> SandboxOptions:
        return SandboxOptions(
            uid=uid,
            read_anywhere=uid is not None and not _is_reachable(interpreter),
            readable=(*_SYSTEM, *_FILES, *interpreter.folders),
            writable=tuple(f"{base}/{name}" for name in ("data", "tmp", "home", "k")),
            filter=build_session_filter(own_network=False, guard_metadata=True),
            post_start_filter=build_post_start_filter(),
            has_host_folder=True,
        )


def _is_reachable(interpreter: Interpreter) -> bool:
    """Whether an ordinary user can enter the interpreter's folders and the temporary one."""
    return interpreter.is_reachable and is_reachable_by_anyone(tempfile.gettempdir())


def _abi() -> int:
    if sys.platform != "linux":
        raise IsolationError("Landlock is a part of Linux")
    if not is_supported():
        raise IsolationError("there is no seccomp filter for this kind of machine")
    from .launcher.lockdown import get_landlock_abi  # noqa: PLC0415 - Linux only

    return get_landlock_abi()
