"""The `landlock` backend, for places that refuse user namespaces.

Landlock limits files. The first seccomp filter allows only Unix sockets. The second is set once the
kernel listens and refuses `connect`, because Landlock before ABI 9 does not restrict connections to
Unix sockets by path, such as those of other sessions (landlock-lsm/linux#36). The supervisor ends
what the session leaves behind.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from typing import ClassVar

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.common.settings import IsolationName
from cci_plugins.errors import IsolationError

from . import self_check, uids
from .base import KernelSpec
from .host_folder import HostFolderIsolation
from .interpreter import Interpreter, inspect, is_reachable_by_anyone
from .kernel_config import SYSTEM_FILES, SandboxOptions, describe_limits
from .seccomp import build_post_start_filter, build_session_filter, check_machine

SCOPED_ABI = 6  # the first that keeps signals and abstract sockets inside
OLDEST_ABI = 3  # the first that refuses to truncate files
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
_HARDWARE = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu")
_LIMITATIONS = (
    "names and sizes of files outside the session can be probed, not their contents",
    "the host name and the number of processors are visible, and multiprocessing pools do not work",
    "files of the session are on the host's disk, where the watchdog limits their size",
)
_SIGNALS = "this kernel's Landlock is old: the code can signal other processes of its user"
_THREADS = "the limit of processes also counts those that your user starts later"
_READS = "the code can read any file in the interpreter's folders, which only root can enter"


class LandlockIsolation(HostFolderIsolation):
    """Backend of Landlock for files, seccomp for sockets, and a supervisor for processes."""

    name: ClassVar[IsolationName] = "landlock"

    def __init__(self, limits: SandboxLimits, *, oldest_abi: int = OLDEST_ABI) -> None:
        """Prepare the backend.

        Args:
            limits: Resource limits of each session.
            oldest_abi: The oldest accepted version of Landlock.
        """
        super().__init__(limits)
        self._oldest_abi = oldest_abi
        self._abi = 0

    def describe(self) -> str:
        """Return one line for people: the backend and the session's limits."""
        return f"landlock ABI {self._abi} + seccomp; no network; {describe_limits(self._limits)}"

    async def run_self_check(self, spec: KernelSpec) -> None:
        """Start a sandbox once and check it from inside.

        Raises:
            IsolationError: Landlock is missing or too old here, or a check failed.
        """
        self._abi = _detect_abi()
        if self._abi < self._oldest_abi:
            raise IsolationError(
                f"Landlock ABI {self._abi} is older than {self._oldest_abi}"
                if self._abi
                else "this kernel has no Landlock",
                hint="use a newer kernel (6.12 or later)",
            )
        interpreter = await inspect(spec.python)
        self.limitations = self._list_limitations(interpreter)
        start = functools.partial(self._start, spec, interpreter)
        await self_check.run(self.name, interpreter, start, own_network=False)

    def _list_limitations(self, interpreter: Interpreter) -> tuple[str, ...]:
        root = os.geteuid() == 0
        signals = (_SIGNALS,) if self._abi < SCOPED_ABI and not root else ()
        reads = (_READS,) if root and not _is_reachable(interpreter) else ()
        threads = () if root else (_THREADS,)
        return (*_LIMITATIONS, *threads, *signals, *reads)

    def _allocate_uid(self) -> int | None:
        if os.geteuid() != 0:
            return None
        if not uids.can_allocate():
            raise IsolationError(
                "this user namespace maps no user id for a session, so its code would run as root",
                hint="run the app as another user than root, or map the user ids 20000 to 60000",
            )
        return uids.allocate()

    def _build_options(
        self, base: str, interpreter: Interpreter, uid: int | None
    ) -> SandboxOptions:
        return SandboxOptions(
            uid=uid,
            read_anywhere=uid is not None and not _is_reachable(interpreter),
            readable=(*_SYSTEM, *SYSTEM_FILES, *_HARDWARE, *interpreter.folders),
            writable=tuple(f"{base}/{name}" for name in ("data", "tmp", "home", "k")),
            filter=build_session_filter(own_network=False, guard_metadata=True),
            post_start_filter=build_post_start_filter(),
            has_host_folder=True,
        )


def _is_reachable(interpreter: Interpreter) -> bool:
    """Return whether every user can enter the interpreter's folders and the temporary one."""
    return interpreter.is_reachable and is_reachable_by_anyone(tempfile.gettempdir())


def _detect_abi() -> int:
    if sys.platform != "linux":
        raise IsolationError(f"Landlock is not available on {sys.platform}")
    check_machine()
    from .launcher.lockdown import get_landlock_abi  # noqa: PLC0415 - Linux only

    return get_landlock_abi()
