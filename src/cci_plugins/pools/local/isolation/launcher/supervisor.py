"""Supervisor of one session's processes: ends them all and removes the session's folder.

It runs as `python -I -S supervisor.py FOLDER CHANNEL COMMAND...`, between the app and boot.py, for
the backends without a PID namespace. CHANNEL is a descriptor for the command alone, or -1. In a PID
namespace the kernel ends every process with the first. Elsewhere a process that calls `setsid` and
forks twice would outlive the session, so the supervisor takes that part. It imports the standard
library only, to start in a few milliseconds. Without a command it does nothing but remove the
folder when the app has ended (`guard_folder`).

States, in this order and never back:

1. Starting: it ignores SIGINT, SIGTERM and SIGHUP, leaves the app's terminal session, becomes the
   subreaper of its descendants (Linux), and forks the command.
2. Watching (`watch`): it waits for the first of three ends: the command has ended, standard input
   was closed (the app asks for the end, or has died), or its own parent has changed. A byte `i` on
   standard input sends SIGINT to the command. Orphans that end are reaped here too.
3. Killing (`kill_descendants`), until no child is left or 10 s have passed.
4. Removing (`remove_folder`), then it exits with the command's status, or 137 without one.

Invariants:

- It stays outside the sandbox, and as root keeps root, so that it can kill what it started.
- Only the app's pipe controls it. The command gets /dev/null as standard input, never that pipe.
  Under Landlock a session cannot signal it: another user id or the signal scope prevents that.
- Every process of the session stays a descendant: a subreaper inherits the orphans. macOS has
  neither subreapers nor /proc. There Seatbelt refuses fork, and only the process group is killed.
- Killing comes before removing, because a live process could write new files meanwhile. SIGSTOP
  goes to the whole tree before SIGKILL, because a fork bomb would outrun the kills otherwise.
- If this process hangs, the app kills the tree (`host_folder`). If it is killed, PR_SET_PDEATHSIG
  ends the kernel (`lockdown.die_with_parent`), and the app removes the folder.

The app imports `iter_descendants`, `list_children` and `remove_folder` for the same work.
"""

# ruff: noqa: PTH101, PTH104, PTH106, PTH108, PTH110, PTH118, PTH123, PTH208 - plain calls, to start without pathlib
from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Iterator

KILL_SECONDS = 10.0
PARENT_CHECK_SECONDS = 2.0
PR_SET_CHILD_SUBREAPER = 36
COMMAND_MISSING = 127


def become_subreaper() -> None:
    """Become the new parent of every descendant whose parent ends."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - the start should be quick elsewhere

        if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError("prctl(PR_SET_CHILD_SUBREAPER) failed")


def start_command(command: list[str]) -> int:
    """Start the command in its own terminal session and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    finally:
        os._exit(COMMAND_MISSING)


def watch(child: int) -> int:
    """Wait for the first reason to end and return the exit status.

    `select` returns for standard input at once and for an ended child through the wakeup pipe. A
    changed parent is noticed every 2 s.
    """
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
    """Reap ended children. Return the command's exit status if it is among them."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return 128 - code if code < 0 else code
    return None


def iter_descendants(root: int) -> Iterator[int]:
    """Yield a process and all its descendants, parents first."""
    waiting, seen = [root], {root}
    while waiting:
        pid = waiting.pop()
        yield pid
        fresh = [child for child in list_children(pid) if child not in seen]
        seen.update(fresh)
        waiting += fresh


def list_children(pid: int) -> list[int]:
    """List the processes started by any thread of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{pid}/task/{thread}/children", "rb") as file,
            ):
                found += map(int, file.read().split())
    return found


def kill_descendants(child: int) -> None:
    """End every process of the session, again and again until none is left."""
    end = time.monotonic() + KILL_SECONDS
    while time.monotonic() < end:
        tree = [pid for pid in iter_descendants(os.getpid()) if pid != os.getpid()]
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


def remove_folder(folder: str) -> None:
    """Remove a folder of any depth.

    `shutil.rmtree` fails below a depth of about 1,000 and at folders of mode 0. Here each folder
    found is made accessible, moved to the top, and emptied there. Links are never followed.
    """
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
                    moved, number = os.path.join(folder, f".removed-{number}"), number + 1
                    os.rename(entry.path, moved)
                    waiting.append(moved)
        if place != folder:
            with contextlib.suppress(OSError):
                os.rmdir(place)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def guard_folder(folder: str) -> int:
    """Remove a folder when the app asks for it or has ended.

    A program that the app left behind may write there a moment longer.
    """
    parent = os.getppid()
    while os.getppid() == parent:
        if select.select([0], [], [], PARENT_CHECK_SECONDS)[0]:
            break
    end = time.monotonic() + KILL_SECONDS
    while os.path.exists(folder) and time.monotonic() < end:
        remove_folder(folder)
        time.sleep(0.005)
    return 0


def main(folder: str, channel: int, command: list[str]) -> int:
    """Run the command, clean up after it, and return the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.setsid()
    if not command:
        return guard_folder(folder)
    become_subreaper()
    child = start_command(command)
    if channel >= 0:
        os.close(channel)  # else the app would not notice when the command closes its own copy
    try:
        return watch(child)
    finally:
        kill_descendants(child)
        remove_folder(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
