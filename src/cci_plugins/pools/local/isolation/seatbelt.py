"""The fence on macOS: Apple's Seatbelt by sandbox-exec. Experimental: not tried on a Mac yet."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import ClassVar

from cci_plugins.common.settings import IsolationName
from cci_plugins.errors import IsolationError
from cci_plugins.pools.local.isolation.launcher import LAUNCHER

from .base import KernelSpec
from .host_folder import HostFolderIsolation
from .interpreter import Interpreter, inspect
from .kernel_config import SandboxOptions, describe_limits

SANDBOX_EXEC = "/usr/bin/sandbox-exec"
_CHECK_SECONDS = 20
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
    "memory of a session is bounded by the watchdog only, and the code cannot start programs",
)


class SeatbeltIsolation(HostFolderIsolation):
    """Seatbelt limits files and sockets; starting further processes is refused."""

    name: ClassVar[IsolationName] = "seatbelt"
    limitations = _LIMITATIONS

    def describe(self) -> str:
        """One line for people."""
        return f"seatbelt (experimental); no network; {describe_limits(self._limits)}"

    async def run_self_check(self, spec: KernelSpec) -> None:
        """See that the profile is accepted and keeps a file of ours out of reach.

        Raises:
            IsolationError: It does not hold here.
        """
        if shutil.which(SANDBOX_EXEC) is None:
            raise IsolationError(f"{SANDBOX_EXEC} does not exist")
        interpreter = await inspect(spec.python)
        home = str(Path.home())
        code = f"import os\ntry: os.listdir({home!r})\nexcept OSError: raise SystemExit(42)"
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
            raise IsolationError("the check of Seatbelt did not end") from error
        if status != 42:  # noqa: PLR2004
            raise IsolationError(f"Seatbelt does not hold (status {status})")

    def _build_options(
        self, base: str, interpreter: Interpreter, uid: int | None
    ) -> SandboxOptions:
        del base, interpreter
        return SandboxOptions(uid=uid, has_host_folder=True)

    def _build_wrapper_command(self, base: str, interpreter: Interpreter) -> list[str]:
        boot = LAUNCHER
        return [SANDBOX_EXEC, "-p", build_profile(base, (*interpreter.folders, str(boot)))]


def build_profile(base: str, readable: tuple[str, ...]) -> str:
    """The Seatbelt profile of one session.

    Args:
        base: The session's folder on the host.
        readable: Folders to read besides the system's own.
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
    """A string of the profile's language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
