"""The `seatbelt` backend: Apple's sandbox-exec. Experimental, not tried on a Mac yet."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import ClassVar

from cci_plugins.common.settings import IsolationName
from cci_plugins.errors import IsolationError
from cci_plugins.pools.local.isolation.launcher import LAUNCHER

from .base import KernelSpec
from .host_folder import HostFolderIsolation
from .interpreter import Interpreter, find_home, inspect
from .kernel_config import SandboxOptions, describe_limits

SANDBOX_EXEC = "/usr/bin/sandbox-exec"
_CHECK_SECONDS = 20
_REFUSED = 42  # exit status of the check: the home folder could not be listed
_READABLE = (
    "/usr",
    "/bin",
    "/System",
    "/Library/Frameworks",
    "/Library/Fonts",
    "/opt/homebrew",
    "/private/etc/localtime",
    "/private/var/db/timezone",
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
)
_LIMITATIONS = (
    "Seatbelt is experimental here and deprecated by Apple",
    "only the watchdog limits the memory of a session, and the code cannot start programs",
)


class SeatbeltIsolation(HostFolderIsolation):
    """Backend of Seatbelt, which limits files and sockets and refuses further processes."""

    name: ClassVar[IsolationName] = "seatbelt"
    limitations = _LIMITATIONS

    def describe(self) -> str:
        """Return one line for people: the backend and the session's limits."""
        return f"seatbelt (experimental); no network; {describe_limits(self._limits)}"

    async def run_self_check(self, spec: KernelSpec) -> None:
        """Check that Seatbelt accepts the profile and hides the home folder.

        Raises:
            IsolationError: It does not.
        """
        if shutil.which(SANDBOX_EXEC) is None:
            raise IsolationError(f"{SANDBOX_EXEC} is missing")
        interpreter = await inspect(spec.python)
        home = find_home() or "/Users"
        code = f"import os\ntry: os.listdir({home!r})\nexcept OSError: raise SystemExit({_REFUSED})"
        process = await asyncio.create_subprocess_exec(
            *self._build_wrapper_command("/private/var/empty", interpreter),
            *(interpreter.executable, "-I", "-c", code),
            env={},
        )
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                status = await process.wait()
        except TimeoutError as error:
            process.kill()
            raise IsolationError(
                f"the self-check of seatbelt did not finish within {_CHECK_SECONDS} s"
            ) from error
        if status != _REFUSED:
            raise IsolationError(
                f"the sandbox failed its self-check: status {status}, expected {_REFUSED}"
            )

    def _build_options(
        self, base: str, interpreter: Interpreter, uid: int | None
    ) -> SandboxOptions:
        del base, interpreter
        return SandboxOptions(uid=uid, has_host_folder=True)

    def _build_wrapper_command(self, base: str, interpreter: Interpreter) -> list[str]:
        return [SANDBOX_EXEC, "-p", build_profile(base, (*interpreter.folders, str(LAUNCHER)))]


def build_profile(base: str, readable: tuple[str, ...]) -> str:
    """Build the Seatbelt profile of one session.

    Args:
        base: The session's folder on the host.
        readable: Folders to read in addition to the system's own.
    """
    session = os.path.realpath(base)
    reads = "\n  ".join(_format_subpath(path) for path in (*_READABLE, *readable, session))
    writes = "\n  ".join(
        _format_subpath(f"{session}/{name}") for name in ("data", "tmp", "home", "k")
    )
    return f"""(version 1)
(deny default)
(allow process-exec)
(allow signal (target self))
(allow process-info* (target self))
(allow sysctl-read)
(allow ipc-posix-sem)
(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))
(allow file-read-metadata)
(allow file-read*
  (literal "/")
  {reads})
(allow file-write*
  (literal "/dev/null")
  (literal {_quote(session + "/session.json")})
  {writes})
(allow network-bind network-inbound
  (local unix-socket {_format_subpath(session + "/k")}))
"""


def _format_subpath(path: str) -> str:
    return f"(subpath {_quote(path)})"


def _quote(text: str) -> str:
    """Quote a string for the profile's language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
