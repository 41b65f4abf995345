"""Memory cgroups: the kernel's own bound on the memory of one session (Linux).

The watchdog adds up what /proc shows (`memory.py`). A cgroup also bounds what it does not show:
data in sockets, shared pages that are not mapped, and the kernel's records of empty files. It is
used where this process may create one, so as root, or where a service manager delegates it.
Elsewhere the watchdog counts alone.

- The kernel charges files, too: those in memory, and the page cache of those on disk. So the limit
  is `memory_bytes + disk_bytes`, and the watchdog is the first to end a session for its processes.
- The app moves the session's processes before any code of the user runs. What they start later is
  born inside. A parent is moved before its children are listed, so no child is missed. The move
  takes 10 to 30 ms, so it runs in a thread while the kernel starts.
- The kernel kills a process of the session, and perhaps not the first one. The app then ends the
  session, and gives this as its reason.
- An empty cgroup costs next to nothing. When the app was killed, the next app removes it.

Version 1 has a hierarchy for memory. In version 2 a cgroup with processes cannot have limited
children, unless it is the root. So sessions are put below the parent of the app's cgroup there,
if that is delegated.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from secrets import token_hex

import anyio

from cci_plugins.common.limits import MIB
from cci_plugins.common.log import logger
from cci_plugins.common.shortages import is_shortage
from cci_plugins.common.threads import run_in_thread

from .launcher.supervisor import iter_descendants

_PREFIX = "cci-"
_REMOVE_TRIES, _REMOVE_PAUSE = 10, 0.005  # seconds; an ended process leaves a moment later
_LIMITS = {
    1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    2: ("memory.max", "memory.swap.max"),
}
_COUNTED = "a session has no memory cgroup, so its memory is counted: %s"
_EVENTS = {1: "memory.oom_control", 2: "memory.events"}


@dataclass(frozen=True, slots=True)
class CgroupParent:
    """A cgroup below which sessions get theirs.

    Attributes:
        folder: Its folder.
        version: Version of cgroups, 1 or 2.
    """

    folder: Path
    version: int

    def create(self, limit: int) -> MemoryCgroup:
        """Create a cgroup with this limit in bytes.

        Raises:
            OSError: This process may not create one here.
        """
        cgroup = MemoryCgroup(
            self.folder / f"{_PREFIX}{os.getpid()}-{token_hex(4)}", self.version, limit
        )
        cgroup.folder.mkdir()
        try:
            name, swap = _LIMITS[self.version]
            (cgroup.folder / name).write_text(str(limit), encoding="ascii")
            swap_limit = limit if self.version == 1 else 0
            with contextlib.suppress(OSError):  # a kernel that does not count swap
                (cgroup.folder / swap).write_text(str(swap_limit), encoding="ascii")
        except OSError:
            cgroup.remove()
            raise
        return cgroup

    def remove_leftovers(self) -> None:
        """Remove the cgroups of apps that have ended."""
        for folder in self.folder.glob(f"{_PREFIX}*-*"):
            pid = folder.name.split("-")[1]
            if pid.isdigit() and not Path("/proc", pid).exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """The cgroup of one session.

    Attributes:
        folder: Its folder.
        version: Version of cgroups, 1 or 2.
        limit: Its limit in bytes.
    """

    folder: Path
    version: int
    limit: int

    def add_tree(self, root: int) -> None:
        """Move a process and its descendants here.

        Raises:
            OSError: They cannot be moved.
        """
        for pid in iter_descendants(root):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                (self.folder / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def find_excess(self) -> str | None:
        """Return why the kernel killed a process of the session, as a clause. None if not."""
        with contextlib.suppress(OSError, ValueError):
            events = (self.folder / _EVENTS[self.version]).read_text(encoding="ascii").split()
            if "oom_kill" in events and int(events[events.index("oom_kill") + 1]):
                return (
                    f"it used {self.limit // MIB:,} MiB of memory, with its files and what the "
                    "kernel keeps for it, and that is its limit"
                )
        return None

    def remove(self) -> None:
        """Remove the cgroup once its processes have ended. A second call does nothing."""
        for _ in range(_REMOVE_TRIES):
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(_REMOVE_PAUSE)
        if self.folder.exists():
            logger.info("a memory cgroup could not be removed: %s", self.folder)


@lru_cache
def find_cgroup_parent() -> CgroupParent | None:
    """Return where the sessions of this process get their cgroups, or None if they have none.

    Raises:
        OSError: That cannot be found out now.
    """
    try:
        own, mounts = (
            Path("/proc/self", name).read_text(encoding="utf-8") for name in ("cgroup", "mountinfo")
        )
    except OSError as error:
        if is_shortage(error):
            raise
        return None
    for parent in iter_parents(own, mounts):
        parent.remove_leftovers()
        try:
            parent.create(MIB).remove()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
                raise
            logger.info("no memory cgroup for sessions below %s: %s", parent.folder, error)
            continue
        return parent
    return None


def iter_parents(own: str, mounts: str) -> Iterator[CgroupParent]:
    """Yield the cgroups below which this process might create one.

    Args:
        own: Text of `/proc/self/cgroup`.
        mounts: Text of `/proc/self/mountinfo`.
    """
    paths = {names: path for _, names, path in (line.split(":", 2) for line in own.splitlines())}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        (_, _, _, root, place, *_), (kind, _, options) = before.split(), after.split(" ", 2)
        if kind == "cgroup" and "memory" in options.split(","):
            for names, path in paths.items():
                if "memory" in names.split(",") and (folder := _find_folder(path, root, place)):
                    yield CgroupParent(folder, 1)
        elif kind == "cgroup2" and (folder := _find_folder(paths.get("", ""), root, place)):
            above = [folder] if folder == Path(place) else [folder, folder.parent]
            yield from (CgroupParent(one, 2) for one in above if _delegates_memory(one))


def _find_folder(path: str, root: str, place: str) -> Path | None:
    """Return the folder of a cgroup in a mount that shows the hierarchy from `root` on."""
    if not (path + "/").startswith(root.rstrip("/") + "/"):
        return None
    folder = Path(place) / path[len(root.rstrip("/")) :].lstrip("/")
    return folder if folder.is_dir() else None


def _delegates_memory(folder: Path) -> bool:
    """Return whether children can have a limit, and this process may move others into them."""
    try:
        control = (folder / "cgroup.subtree_control").read_text(encoding="ascii")
    except OSError:
        return False
    return "memory" in control.split() and os.access(folder / "cgroup.procs", os.W_OK)


async def confine(
    limit: int, list_roots: Callable[[], list[int]], keep: Callable[[MemoryCgroup], None]
) -> None:
    """Put a session into a cgroup, if it can have one.

    Args:
        limit: The session's bound in bytes.
        list_roots: Lists the session's first processes. It is empty before they have started.
        keep: Called with the cgroup once it exists. The session removes it.
    """
    try:
        parent = await run_in_thread(find_cgroup_parent)
    except OSError as error:
        logger.warning(_COUNTED, error)
        return
    if parent is None:
        return
    while not (roots := list_roots()):  # noqa: ASYNC110 - nothing reports a start
        await anyio.sleep(_REMOVE_PAUSE)

    def move() -> None:
        try:
            cgroup = parent.create(limit)
            keep(cgroup)
            for pid in roots:
                cgroup.add_tree(pid)
        except OSError as error:
            logger.warning(_COUNTED, error)

    await run_in_thread(move)
