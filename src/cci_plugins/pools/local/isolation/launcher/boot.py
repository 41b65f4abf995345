"""First program of a session: give up rights, then run the kernel or the self-check.

It runs as `python -I boot.py SESSION.json`, with lockdown.py and child_output.py in the same
folder, and imports only the standard library and ipykernel. Under bubblewrap it starts inside the
namespaces and the first seccomp filter. Elsewhere it starts on the host, below the supervisor
(alone on Windows). It sets up what the backend has not. SESSION.json lists the steps
(`kernel_config.describe_session`).

States, in this order and never back:

1. Described: the description is read, and its file removed while this process still may.
2. Locked down (`lock_down`): every right that the session must not have is gone.
3. Listening: ipykernel has bound its sockets. No code of the user has run yet.
4. Closed: the post-start filter refuses new sockets in every thread. It cannot come earlier,
   because ipykernel needs `socket` and `bind` in step 3.
5. Running: the kernel takes requests. The self-check replaces steps 3 to 5.

Invariants:

- Code of the user runs only in step 5. ipykernel itself is imported after step 2, since it loads
  packages from the user's environment.
- A step that fails ends this process. Nothing here catches an error and goes on, so a session with
  a part of its isolation missing never starts. The app reads the reason from standard error.
- With a `lifeline`, standard input is a pipe that nothing is written to. It becomes readable only
  when the app closes it or ends. It is checked first and last, then replaced by /dev/null, so that
  the user's code cannot read or hold it. From then on bubblewrap's own `--die-with-parent` acts.
"""

# ruff: noqa: PTH108, PTH112, PTH118, PTH120, PTH123, PTH208 - plain calls on names that a check must see fail
from __future__ import annotations

import importlib.util
import json
import os
import select
import site
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

# Of libzmq: a type of sockets, and two options
XPUB, SNDHWM, XPUB_NODROP = 9, 23, 69
MAX_WAITING_MESSAGES = 16  # of output, in the kernel


@lru_cache
def _load_sibling(name: str) -> ModuleType:
    """Load a module from this file's folder, once, while that folder can be read."""
    spec = importlib.util.spec_from_file_location(
        f"_cci_{name}", os.path.join(os.path.dirname(__file__), f"{name}.py")
    )
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lock_down(session: dict[str, Any]) -> None:
    """Give up every right that the session must not have, in the one order that works.

    1. The OOM score, while /proc can still be written. bubblewrap's sandbox has a read-only /proc,
       so there the app sets it from outside.
    2. The user id, the only step that needs root.
    3. The parent-death signal, which a change of user id clears.
    4. Resource limits, whose processes are counted for the new user id.
    5. Landlock, which also sets no_new_privs. Inside bubblewrap it only separates processes.
    6. The seccomp filter, which the kernel accepts only after no_new_privs.
    """
    if sys.platform == "win32":
        return
    lockdown = _load_sibling("lockdown")
    if sys.platform == "linux":
        if session["has_host_folder"]:
            lockdown.raise_oom_score()
        if session["uid"] is not None:
            lockdown.drop_privileges(session["uid"], read_anywhere=session["read_anywhere"])
        if session["has_host_folder"]:
            lockdown.die_with_parent()
    limits = session["limits"]
    if sys.platform == "darwin":  # macOS counts every process of the user
        del limits["NPROC"]
    lockdown.set_limits(limits)
    if session["readable"] is not None:
        lockdown.restrict_paths(session["readable"], session["writable"])
    elif session["own_domain"]:
        lockdown.isolate_processes(session["writable"])
    if session["filter"]:
        lockdown.apply_filter(bytes.fromhex(session["filter"]))


def find_failures(check: dict[str, Any]) -> list[str]:
    """List what the sandbox allows and must not. An empty list means that it works."""
    lockdown = _load_sibling("lockdown")
    failures = [f"{path} can be read" for path in check["unreadable"] if _can_read(path)]
    failures += [f"{path} can be written" for path in check["unwritable"] if _can_write(path)]
    if not lockdown.is_filtered():
        failures.append("the seccomp filter is not active")
    if os.getuid() == 0 or os.geteuid() == 0:
        failures.append("the code would run as root")
    if _has_network(own=check["own_network"]):
        failures.append("a network is reachable")
    if _can_change("/proc/1/mem"):
        failures.append("the memory of process 1 can be changed")
    if lockdown.can_create_namespace():
        failures.append("new namespaces can be created")
    return failures


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


def _can_change(path: str) -> bool:
    try:
        open(path, "r+b").close()
    except OSError:
        return False
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
    """End this process when its parent closes standard input (Windows has no other way)."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def exit_if_abandoned(session: dict[str, Any]) -> None:
    """End this process if the app ended or gave up while the sandbox was being set up.

    bubblewrap asks to die with its parent only after it has started. If the parent ends earlier,
    the sandbox would stay behind.
    """
    if session["lifeline"] and select.select([0], [], [], 0)[0]:
        os._exit(1)


def set_variables(variables: dict[str, str]) -> None:
    """Set the variables for the user's code.

    They come after the lockdown, so that none of them (`LD_PRELOAD`, `PATH`) acts on what sets up
    the sandbox.
    """
    os.environ.update(variables)
    if hasattr(time, "tzset"):
        time.tzset()


def start_kernel(session: dict[str, Any]) -> None:
    """Run the kernel until it ends."""
    file = session["connection_file"]
    with open(file, "w", encoding="ascii", opener=_open_private) as out:
        json.dump(session["connection"], out)
    for path in session["paths"]:
        site.addsitedir(path)
    from ipykernel.kernelapp import IPKernelApp  # noqa: PLC0415 - only after the lockdown

    app: Any = IPKernelApp.instance()
    bind = app._bind_socket  # noqa: SLF001 - a socket's options are set before its first connection
    app._bind_socket = lambda socket, port: bind(bound_queue(socket), port)  # noqa: SLF001
    if sys.platform != "win32":
        _take_child_output(app)
    with without_debugger():
        app.initialize(["-f", file, "--HistoryManager.enabled=False", *session["arguments"]])
    if session["post_start_filter"]:
        program = bytes.fromhex(session["post_start_filter"])
        _load_sibling("lockdown").apply_filter(program, all_threads=True)
    keep_sockets_in_their_threads(app.kernel)
    exit_if_abandoned(session)
    if session["lifeline"]:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    app.start()


def bound_queue(socket: Any) -> Any:
    """Have the kernel's output wait for its host, and return the socket.

    A publisher of libzmq drops what it sends beyond the limit of its queue, and with it the end of
    a run. Here the thread that sends waits (`in_session/output_pace`). A lower limit does not hold
    for connections that exist already, so it is set before the first one.
    """
    if socket.type == XPUB:
        socket.setsockopt(XPUB_NODROP, 1)
        socket.setsockopt(SNDHWM, MAX_WAITING_MESSAGES)
    return socket


@contextmanager
def without_debugger() -> Iterator[None]:
    """Keep ipykernel from loading debugpy, which nobody can attach to. The user's code still can.

    It is an eighth of the work of a start.
    """
    modules: dict[str, Any] = sys.modules
    modules["debugpy"] = None  # its import fails
    try:
        yield
    finally:
        del modules["debugpy"]


def keep_sockets_in_their_threads(kernel: Any) -> None:
    """Have one thread alone, and there one stream alone, use each socket of the kernel.

    A socket of libzmq announces a request once. The next call on it takes that announcement.
    ipykernel before 7.4 sends its replies past the stream that reads the requests. A request that
    comes at that moment is never read, and the kernel waits without end (ipykernel #1554). Every
    ipykernel registers the readers in the main thread, while their own threads already run.
    """
    for stream in filter(None, (kernel.shell_stream, kernel.control_stream)):
        stream.on_recv = partial(stream.io_loop.add_callback, stream.on_recv)
    shell = kernel.shell_channel_thread
    manager = None if shell is None else shell.manager
    if manager is not None and hasattr(manager, "_shell_socket"):
        manager._shell_socket = kernel.shell_stream  # noqa: SLF001 - it only sends


def _take_child_output(app: Any) -> None:
    """Have the kernel's streams take what child processes write."""
    child_output: Any = _load_sibling("child_output")
    child_output.SessionOutStream = child_output.build_stream_class()
    sys.modules[child_output.__name__] = child_output  # ipykernel imports the class by its name
    app.outstream_class = f"{child_output.__name__}.SessionOutStream"
    child_output.use_pipes_without_terminals()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def main(path: str) -> int:
    """Run all steps for the description in this file, and return the exit status."""
    session = json.loads(Path(path).read_bytes())
    if session["has_host_folder"]:
        os.unlink(path)
    exit_if_abandoned(session)
    if session["channel"] is not None:  # programs that the code starts do not get it
        os.set_inheritable(session["channel"], False)  # noqa: FBT003 - it takes no keyword
    if session["watch_stdin"]:
        _exit_with_stdin()
    if sys.platform != "win32":
        _load_sibling("child_output")  # while its file can be read
    lock_down(session)
    if session["check"] is None:
        set_variables(session["environment"])
        start_kernel(session)
        return 0
    failures = find_failures(session["check"])
    sys.stderr.write("; ".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
