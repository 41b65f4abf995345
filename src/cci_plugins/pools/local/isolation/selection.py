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

Name = Literal["auto", "bwrap", "landlock", "seatbelt", "process"]
_log = logging.getLogger("cci_plugins")
_chosen: dict[tuple[str, Path, SandboxLimits, int], Isolation] = {}

_HINTS = {
    "linux": "apt install bubblewrap; on Ubuntu 23.10-24.04 allow it by an AppArmor profile with "
    "`userns,` for /usr/bin/bwrap; or accept the risk by name: CCI_ISOLATION=process",
    "darwin": "run in Docker, or accept the risk by name: CCI_ISOLATION=process",
}
_OTHER_HINT = "use WSL2 or Docker, or accept the risk by name: CCI_ISOLATION=process"


async def choose(name: Name, spec: KernelSpec) -> Isolation:
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
    remembered = (name, spec.python, spec.limits, user)
    if remembered not in _chosen:
        isolation = await (_strongest(spec) if name == "auto" else _by_name(name, spec))
        _announce(isolation)
        _chosen[remembered] = isolation
    return _chosen[remembered]


def _makers(*, automatic: bool) -> dict[str, Callable[[SandboxLimits], Isolation]]:
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


async def _by_name(name: str, spec: KernelSpec) -> Isolation:
    from .process import ProcessIsolation  # noqa: PLC0415 - only when it is asked for

    makers = {**_makers(automatic=False), "process": ProcessIsolation}
    if name not in {"bwrap", "landlock", "seatbelt", "process"}:
        raise ConfigurationError(f"there is no isolation called {name!r}", hint="use auto")
    if name not in makers:
        raise IsolationError(f"{name} does not exist on {sys.platform}", hint="use auto")
    isolation = makers[name](spec.limits)
    await isolation.probe(spec)
    return isolation


async def _strongest(spec: KernelSpec) -> Isolation:
    refusals: list[IsolationError] = []
    reasons: list[str] = []
    for name, make in _makers(automatic=True).items():
        isolation = make(spec.limits)
        try:
            await isolation.probe(spec)
        except IsolationError as error:
            refusals.append(error)
            reasons.append(f"{name}: {error}")
            continue
        for reason in reasons:
            _log.warning("isolation: a stronger fence does not hold here: %s", reason)
        return isolation
    hints = [error.hint for error in refusals if error.hint]
    raise IsolationError(
        "no isolation holds on this machine; code from a model would run with your files and "
        f"your network ({'; '.join(reasons) or 'there is none for ' + sys.platform})",
        hint="; ".join([*hints[:1], _HINTS.get(sys.platform, _OTHER_HINT)]),
    )


def _announce(isolation: Isolation) -> None:
    _log.info("isolation: %s", isolation.describe())
    for sentence in isolation.weaker:
        _log.warning("isolation: %s: %s", isolation.name, sentence)
