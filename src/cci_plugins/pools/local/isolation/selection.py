"""Choose the strongest fence that holds on this machine, and say so."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.errors import ConfigurationError, IsolationError

from .base import Isolation, KernelSpec

IsolationName = Literal["auto", "bwrap", "landlock", "seatbelt", "process"]
_log = logging.getLogger("cci_plugins")
_selections: dict[tuple[str, Path, SandboxLimits, int], Isolation] = {}

_HINTS = {
    "linux": "apt install bubblewrap; on Ubuntu 23.10-24.04 allow it by an AppArmor profile with "
    "`userns,` for /usr/bin/bwrap; or accept the risk by name: CCI_ISOLATION=process",
    "darwin": "run in Docker, or accept the risk by name: CCI_ISOLATION=process",
}
_OTHER_HINT = "use WSL2 or Docker, or accept the risk by name: CCI_ISOLATION=process"


async def choose(name: IsolationName, spec: KernelSpec) -> Isolation:
    """The fence of that name, or for `auto` the strongest that passes its probe.

    An answer is remembered for the life of this process.

    Args:
        name: Which fence; `process` is used only when it is asked for by this name.
        spec: The kernel to be started; its key is not used for real sessions.

    Raises:
        IsolationError: None holds; the message says why each was refused.
        ConfigurationError: There is no such fence, or the interpreter cannot run a kernel.
    """
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    key = (name, spec.python, spec.limits, user)
    if key not in _selections:
        isolation = await (
            _select_strongest(spec) if name == "auto" else _select_by_name(name, spec)
        )
        _log_selection(isolation)
        _selections[key] = isolation
    return _selections[key]


def _list_backends(*, automatic: bool) -> dict[str, Callable[[SandboxLimits], Isolation]]:
    """The fences this system could have, strongest first."""
    if sys.platform == "linux":
        from .bubblewrap.backend import BwrapIsolation  # noqa: PLC0415 - each on its own system only
        from .landlock import OLDEST_ABI, SCOPED_ABI, LandlockIsolation  # noqa: PLC0415

        # as root every session has a user id of its own, so signals stay inside without scopes
        oldest = SCOPED_ABI if automatic and os.geteuid() != 0 else OLDEST_ABI
        return {
            "bwrap": BwrapIsolation,
            "landlock": lambda limits: LandlockIsolation(limits, oldest_abi=oldest),
        }
    if sys.platform == "darwin":
        from .seatbelt import SeatbeltIsolation  # noqa: PLC0415

        return {"seatbelt": SeatbeltIsolation}
    return {}


async def _select_by_name(name: str, spec: KernelSpec) -> Isolation:
    from .process import ProcessIsolation  # noqa: PLC0415 - only when it is asked for

    backends = {**_list_backends(automatic=False), "process": ProcessIsolation}
    if name not in {"bwrap", "landlock", "seatbelt", "process"}:
        raise ConfigurationError(f"there is no isolation called {name!r}", hint="use auto")
    if name not in backends:
        raise IsolationError(f"{name} does not exist on {sys.platform}", hint="use auto")
    isolation = backends[name](spec.limits)
    await isolation.run_self_check(spec)
    return isolation


async def _select_strongest(spec: KernelSpec) -> Isolation:
    errors: list[IsolationError] = []
    reasons: list[str] = []
    for name, make in _list_backends(automatic=True).items():
        isolation = make(spec.limits)
        try:
            await isolation.run_self_check(spec)
        except IsolationError as error:
            errors.append(error)
            reasons.append(f"{name}: {error}")
            continue
        for reason in reasons:
            _log.warning("isolation: a stronger fence does not hold here: %s", reason)
        return isolation
    hints = [error.hint for error in errors if error.hint]
    raise IsolationError(
        "no isolation holds on this machine; code from a model would run with your files and "
        f"your network ({'; '.join(reasons) or 'there is none for ' + sys.platform})",
        hint="; ".join([*hints[:1], _HINTS.get(sys.platform, _OTHER_HINT)]),
    )


def _log_selection(isolation: Isolation) -> None:
    _log.info("isolation: %s", isolation.describe())
    for sentence in isolation.limitations:
        _log.warning("isolation: %s: %s", isolation.name, sentence)
