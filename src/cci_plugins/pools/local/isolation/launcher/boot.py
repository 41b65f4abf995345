"""Start a Jupyter kernel behind its fence (standard library and ipykernel only).

This file also runs on its own: `python -I boot.py SESSION.json`, with lockdown.py beside it.
"""

# ruff: noqa: PTH108, PTH112, PTH118, PTH120, PTH123, PTH208 - plain calls on names that a check must see fail
from __future__ import annotations

import importlib.util
import json
import os
import select
import socket
import sys
import threading
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any


@lru_cache
def _load_sibling(name: str) -> ModuleType:
    """Load a module from this file's folder, wherever that is; once, while it can be read."""
    spec = importlib.util.spec_from_file_location(
        f"_cci_{name}", os.path.join(os.path.dirname(__file__), f"{name}.py")
    )
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lock_down(session: dict[str, Any]) -> None:
    """Give up every right the session must not have, in the one order that works."""
    if sys.platform == "win32":
        return
    lockdown = _load_sibling("lockdown")
    if sys.platform == "linux":
        lockdown.raise_oom_score()
        if session["uid"] is not None:
            lockdown.drop_privileges(session["uid"], read_anywhere=session["read_anywhere"])
        if session["hosted"]:
            lockdown.die_with_parent()  # not earlier: a change of user id clears it
    limits = session["limits"]
    if sys.platform == "darwin":  # there it counts every process of the user
        del limits["NPROC"]
    lockdown.set_limits(limits)
    if session["readable"] is not None:
        lockdown.restrict_paths(session["readable"], session["writable"])
    if session["filter"]:
        lockdown.apply_filter(bytes.fromhex(session["filter"]))


def find_failures(check: dict[str, Any]) -> list[str]:
    """What of the fence does not hold, in words; empty when all of it does."""
    lockdown = _load_sibling("lockdown")
    found = [f"{path} can be read" for path in check["unreadable"] if _can_read(path)]
    found += [f"{path} can be written" for path in check["unwritable"] if _can_write(path)]
    if not lockdown.is_filtered():
        found.append("the seccomp filter is not on")
    if os.getuid() == 0 or os.geteuid() == 0:
        found.append("the code would run as root")
    if _has_network(own=check["own_network"]):
        found.append("there is a network")
    if lockdown.can_make_namespace():
        found.append("new namespaces can be made")
    return found


def _can_read(path: str) -> bool:
    try:
        os.listdir(path) if os.path.isdir(path) else open(path, "rb").close()
    except OSError:
        return False
    return True


def _can_write(folder: str) -> bool:
    path = os.path.join(folder, f".cci-check-{os.getpid()}")
    try:
        open(path, "xb").close()
    except OSError:
        return False
    os.unlink(path)
    return True


def _has_network(*, own: bool) -> bool:
    if own:
        return [name for _, name in socket.if_nameindex()] != ["lo"]
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def _exit_with_stdin() -> None:
    """End this process when whoever started it is gone (Windows has no other way)."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def exit_if_abandoned(session: dict[str, Any]) -> None:
    """End when the app has gone or given up while the fence was going up.

    bubblewrap asks to die with its parent only after it has started; a parent that ends before
    that would leave the sandbox behind.
    """
    if session["lifeline"] and select.select([0], [], [], 0)[0]:
        os._exit(1)


def start_kernel(session: dict[str, Any]) -> None:
    """Run the kernel until it is told to end."""
    file = session["connection_file"]
    with open(file, "w", encoding="ascii", opener=_open_private) as out:
        json.dump(session["connection"], out)
    from ipykernel.kernelapp import IPKernelApp  # noqa: PLC0415 - only after the lock-down

    app: Any = IPKernelApp.instance()
    app.initialize(["-f", file, "--HistoryManager.enabled=False", *session["arguments"]])
    if session["seal"]:
        _load_sibling("lockdown").apply_filter(bytes.fromhex(session["seal"]), all_threads=True)
    exit_if_abandoned(session)
    if session["lifeline"]:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    app.start()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def main(path: str) -> int:
    """Read the session's description, lock down, start; the exit status."""
    session = json.loads(Path(path).read_bytes())
    if session["hosted"]:
        os.unlink(path)
    exit_if_abandoned(session)
    if session["watch_stdin"]:
        _exit_with_stdin()
    lock_down(session)
    if session["check"] is None:
        start_kernel(session)
        return 0
    found = find_failures(session["check"])
    sys.stderr.write("; ".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
