"""Selection of the strongest isolation backend that passes its self-check on this machine."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.common.settings import IsolationName
from cci_plugins.common.shortages import find_hint
from cci_plugins.errors import CodeInterpreterError, ConfigurationError, IsolationError

from .base import Isolation, KernelSpec
from .managed_process import check_child_signal

_log = logging.getLogger("cci_plugins")
_selections: dict[tuple[str, Path, SandboxLimits, int], Isolation] = {}

_HINTS = {
    "linux": "apt install bubblewrap; on Ubuntu 23.10-24.04 allow it by an AppArmor profile with "
    "`userns,` for /usr/bin/bwrap; or accept the risk by name: CCI_ISOLATION=process",
    "darwin": "run in Docker, or accept the risk by name: CCI_ISOLATION=process",
}
_OTHER_HINT = "use WSL2 or Docker, or accept the risk by name: CCI_ISOLATION=process"


async def choose(name: IsolationName, spec: KernelSpec) -> Isolation:
    """Return the named backend, or for `auto` the strongest that passes its self-check.

    The result is cached for the life of this process.

    Args:
        name: The backend. `process` is used only when asked for by this name.
        spec: The kernel to start. Its key is not used for real sessions.

    Raises:
        IsolationError: No backend works. The message gives the reason for each.
        ConfigurationError: The name is unknown, or the interpreter cannot run a kernel.
    """
    check_child_signal()
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    key = (name, spec.python, spec.limits, user)
    if key not in _selections:
        isolation = await (
            _select_strongest(spec) if name == "auto" else _select_by_name(name, spec)
        )
        _log_selection(isolation)
        _selections[key] = isolation
    return _selections[key]


def get_first_choice(name: IsolationName, limits: SandboxLimits) -> Isolation | None:
    """Return the backend that `choose` checks first. None if it takes time to know which.

    Its self-check has not run, so its kernels must not be given any code yet.
    """
    if sys.platform != "linux" or name not in {"auto", "bwrap"}:
        return None
    return _list_backends(automatic=True)["bwrap"](limits)


def _list_backends(*, automatic: bool) -> dict[str, Callable[[SandboxLimits], Isolation]]:
    """List the backends of this operating system, strongest first."""
    if sys.platform == "linux":
        from .bubblewrap.backend import BwrapIsolation  # noqa: PLC0415 - each on its own system only
        from .landlock import OLDEST_ABI, SCOPED_ABI, LandlockIsolation  # noqa: PLC0415

        # As root, every session has its own user id, so signals stay inside without scopes.
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
    from .process import ProcessIsolation  # noqa: PLC0415 - only when someone asks for it

    backends = {**_list_backends(automatic=False), "process": ProcessIsolation}
    if name not in {"bwrap", "landlock", "seatbelt", "process"}:
        raise ConfigurationError(
            f"unknown isolation {name!r}", hint="use auto, or bwrap, landlock, seatbelt, process"
        )
    if name not in backends:
        raise IsolationError(f"{name} is not available on {sys.platform}", hint="use auto")
    isolation = backends[name](spec.limits)
    await _check(isolation, spec)
    return isolation


async def _select_strongest(spec: KernelSpec) -> Isolation:
    errors: list[IsolationError] = []
    reasons: list[str] = []
    for name, make in _list_backends(automatic=True).items():
        isolation = make(spec.limits)
        try:
            await _check(isolation, spec)
        except IsolationError as error:
            errors.append(error)
            reasons.append(f"{name}: {error}")
            continue
        for reason in reasons:
            _log.warning("isolation: a stronger backend does not work here: %s", reason)
        return isolation
    hints = [error.hint for error in errors if error.hint]
    raise IsolationError(
        "no isolation works on this machine, so code from a model would run with your files and "
        f"your network ({'; '.join(reasons) or 'no backend exists for ' + sys.platform})",
        hint="; ".join([*hints[:1], _HINTS.get(sys.platform, _OTHER_HINT)]),
    )


async def _check(isolation: Isolation, spec: KernelSpec) -> None:
    """Run a backend's self-check.

    Raises:
        IsolationError: The backend does not work here.
        OSError: Something is short or missing that no other backend does without.
    """
    try:
        await isolation.run_self_check(spec)
    except CodeInterpreterError:
        raise
    except OSError as error:
        if find_hint(error) is not None:
            raise
        raise IsolationError(f"the system refused a call: {error}") from error


def _log_selection(isolation: Isolation) -> None:
    _log.info("isolation: %s", isolation.describe())
    for sentence in isolation.limitations:
        _log.warning("isolation: %s: %s", isolation.name, sentence)
