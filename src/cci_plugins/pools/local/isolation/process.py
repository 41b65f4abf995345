"""No fence: a plain child process with a clean environment and resource limits, by name only."""

from __future__ import annotations

import sys
from typing import ClassVar

from cci_plugins.common.settings import IsolationName

from .base import KernelSpec, Sandbox
from .host_folder import HostFolderIsolation
from .interpreter import Interpreter, inspect
from .kernel_config import SandboxOptions, describe_limits

_LIMITATION = (
    "NOTHING is kept from the code: it runs as you, with your files, your network, and every "
    "token that your user can read"
)


class ProcessIsolation(HostFolderIsolation):
    """Ends what it started and bounds it; keeps nothing from it."""

    name: ClassVar[IsolationName] = "process"
    limitations = (_LIMITATION,)

    def describe(self) -> str:
        """One line for people."""
        return f"NONE (plain process); {describe_limits(self._limits)}"

    async def run_self_check(self, spec: KernelSpec) -> None:
        """Nothing is promised, so only the interpreter is looked at."""
        await inspect(spec.python)

    async def launch(self, spec: KernelSpec) -> Sandbox:
        """Start a kernel and wait until it listens.

        Raises:
            IsolationError: It could not be started.
        """
        if sys.platform == "win32":
            from .windows import launch_unsandboxed  # noqa: PLC0415 - elsewhere never needed

            return await launch_unsandboxed(spec)
        return await super().launch(spec)

    def _build_options(
        self, base: str, interpreter: Interpreter, uid: int | None
    ) -> SandboxOptions:
        del base, interpreter
        return SandboxOptions(uid=uid, has_host_folder=True)
