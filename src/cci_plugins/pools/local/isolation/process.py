"""No fence: a plain child process with a clean environment and resource limits, by name only."""

from __future__ import annotations

import sys
from typing import ClassVar

from cci_plugins.common.settings import IsolationName

from .base import KernelSpec, Sandbox
from .host_folder import HostedIsolation
from .interpreter import Interpreter, inspect
from .kernel_config import Fence, describe_limits

_NOTHING = (
    "NOTHING is kept from the code: it runs as you, with your files, your network, and every "
    "token that your user can read"
)


class ProcessIsolation(HostedIsolation):
    """Ends what it started and bounds it; keeps nothing from it."""

    name: ClassVar[IsolationName] = "process"
    weaker = (_NOTHING,)

    def describe(self) -> str:
        """One line for people."""
        return f"NONE (plain process); {describe_limits(self._limits)}"

    async def probe(self, spec: KernelSpec) -> None:
        """Nothing is promised, so only the interpreter is looked at."""
        await inspect(spec.python)

    async def launch(self, spec: KernelSpec) -> Sandbox:
        """Start a kernel and wait until it listens.

        Raises:
            IsolationError: It could not be started.
        """
        if sys.platform == "win32":
            from .windows import launch_plainly  # noqa: PLC0415 - elsewhere never needed

            return await launch_plainly(spec)
        return await super().launch(spec)

    def _fence(self, base: str, interpreter: Interpreter, uid: int | None) -> Fence:
        del base, interpreter
        return Fence(uid=uid, hosted=True)
