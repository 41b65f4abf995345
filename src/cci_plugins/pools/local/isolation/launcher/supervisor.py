"""Hold one session's processes and leave nothing behind (standard library only).

Run as `python -I -S supervisor.py FOLDER COMMAND...`, outside the sandbox, where no pid namespace
ends the session's processes for us. Everything the command starts stays below this process. It ends
them all and removes the folder when the command ends, when standard input ends (the app closed
it or died), or when its parent is gone. A byte `i` on standard input interrupts the command.
"""

# ruff: noqa: PTH101, PTH104, PTH106, PTH108, PTH118, PTH123, PTH208 - plain calls, to start without pathlib
from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
import time

KILL_SECONDS = 10.0
PARENT_CHECK_SECONDS = 2.0
PR_SET_CHILD_SUBREAPER = 36
COMMAND_MISSING = 127


def become_subreaper() -> None:
    """Become the parent of every process of the session that loses its own."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - the start should be quick elsewhere

        if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError("PR_SET_CHILD_SUBREAPER")


def start(command: list[str]) -> int:
    """Start the command in a terminal session of its own, without our standard input."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.execv(command[0], command)  # noqa: S606 - there is no shell to want
    finally:
        os._exit(COMMAND_MISSING)


def watch(child: int) -> int:
    """Wait for an end, whichever comes first; the exit status."""
    wakeup_reader, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_writer, False)
    signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    parent = os.getppid()
    while os.getppid() == parent:
        status = reap(child)
        if status is not None:
            return status
        ready, _, _ = select.select([0, wakeup_reader], [], [], PARENT_CHECK_SECONDS)
        if wakeup_reader in ready:
            os.read(wakeup_reader, 512)
        if 0 in ready:
            requests = os.read(0, 512)
            if not requests:
                break
            if b"i" in requests:
                os.kill(child, signal.SIGINT)
    return 128 + signal.SIGKILL


def reap(child: int) -> int | None:
    """Bury the dead; the command's exit status if it is among them."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return 128 - code if code < 0 else code
    return None


def list_descendants(pid: int) -> list[int]:
    """All descendants of a process."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                with (
                    contextlib.suppress(OSError),
                    open(f"/proc/{parent}/task/{thread}/children", "rb") as file,
                ):
                    fresh = [int(child) for child in file.read().split()]
                    found += fresh
                    waiting += fresh
    return found


def kill_descendants(child: int) -> None:
    """End every process of the session; stop them first, so that none escapes by forking."""
    end = time.monotonic() + KILL_SECONDS
    while time.monotonic() < end:
        tree = list_descendants(os.getpid())
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in tree:
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def remove(folder: str) -> None:
    """Remove a folder however deep it is: each folder found is moved up, then emptied."""
    waiting, number = [folder], 0
    while waiting:
        place = waiting.pop()
        with contextlib.suppress(OSError):
            os.chmod(place, stat.S_IRWXU)
            for entry in list(os.scandir(place)):
                with contextlib.suppress(OSError):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)
                        continue
                    os.chmod(entry.path, stat.S_IRWXU)
                    moved, number = os.path.join(folder, f".gone-{number}"), number + 1
                    os.rename(entry.path, moved)
                    waiting.append(moved)
        if place != folder:
            with contextlib.suppress(OSError):
                os.rmdir(place)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def main(folder: str, command: list[str]) -> int:
    """Run the command to its end, then sweep up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.setsid()
    become_subreaper()
    child = start(command)
    try:
        return watch(child)
    finally:
        kill_descendants(child)
        remove(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
