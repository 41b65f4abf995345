"""Functions by which a session's process gives up rights (standard library only).

boot.py calls them, in the order that its `lock_down` explains. This file is copied into sandboxes
without the rest of the package. Each function raises OSError when the kernel refuses: a caller
must not go on with a right that it meant to give up. None of the steps can be undone.

The numbers are Linux's own: linux/prctl.h, linux/capability.h, linux/landlock.h.
"""

# ruff: noqa: PTH112, PTH123 - plain calls, to start quickly
from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS = 1, 4, 8
PR_GET_SECCOMP, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 21, 22, 38, 39
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION = 0x20080522
SECCOMP_NUMBER = {"x86_64": 317, "aarch64": 277}
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446

# Landlock's access rights for files, by bit
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
FIRST_RIGHTS = (1 << 13) - 1
DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
# Shared memory can be mapped from it, of which no limit counts what is not mapped any longer. That
# needs a descriptor that can write.
READABLE_DEVICE = "/dev/zero"
TERMINALS = ("/dev/tty", "/dev/pts")
OLDEST_DOMAIN_ABI = 2  # the first under which a file can be moved to another folder


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _check_result(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def _prctl(option: int, *values: int) -> int:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return _check_result(_libc.prctl(option, *padded), f"prctl({option})")


def set_limits(limits: dict[str, int]) -> None:
    """Set resource limits, hard and soft, keyed by the ends of the RLIMIT names."""
    for name, value in limits.items():
        kind = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def raise_oom_score() -> None:
    """Make this process the first to be killed when the machine runs out of memory."""
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


def die_with_parent() -> None:
    """Have this process killed when its parent ends."""
    _prctl(PR_SET_PDEATHSIG, 9)


def set_no_new_privileges() -> None:
    """Make set-uid programs run without their extra rights, permanently."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def drop_privileges(uid: int, *, read_anywhere: bool = False) -> None:
    """Stop being root permanently, and verify it.

    Args:
        uid: User and group id to take.
        read_anywhere: Keep one right, CAP_DAC_READ_SEARCH: to read files whatever their
            mode. Landlock still decides in which folders.

    Raises:
        OSError: A right could not be given up.
    """
    os.setgroups([])
    if read_anywhere:
        _prctl(PR_SET_KEEPCAPS, 1)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    rights = 1 << CAP_DAC_READ_SEARCH if read_anywhere else 0
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    _set_capabilities(rights)
    if read_anywhere:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH)
    set_no_new_privileges()
    _prctl(PR_SET_DUMPABLE, 1)
    _verify_privileges(uid, rights)


def _set_capabilities(rights: int) -> None:
    header = struct.pack("=Ii", CAPABILITY_VERSION, 0)
    data = struct.pack("=6I", rights, rights, rights, 0, 0, 0)
    _check_result(_libc.capset(header, data), "capset")


def _verify_privileges(uid: int, rights: int) -> None:
    status = dict(line.split(":", 1) for line in _read("/proc/self/status").splitlines())
    ids = {int(value) for key in ("Uid", "Gid") for value in status[key].split()}
    held = {int(status["Cap" + kind], 16) for kind in ("Inh", "Prm", "Eff", "Amb")}
    if ids != {uid} or held != {rights} or status["Groups"].split():
        raise PermissionError(errno.EPERM, f"still privileged: ids {ids}, capabilities {held}")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise PermissionError(errno.EPERM, "could become root again")


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def apply_filter(program: bytes, *, all_threads: bool = False) -> None:
    """Apply a seccomp program to this thread, or to every thread of the process."""
    buffer = ctypes.create_string_buffer(program, len(program))
    loaded = _Filter(len(program) // 8, ctypes.addressof(buffer))
    if not all_threads:
        _check_result(_libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(loaded), 0, 0), "seccomp")
        return
    number = SECCOMP_NUMBER[os.uname().machine]
    if _libc.syscall(number, 1, 1, ctypes.byref(loaded)):  # SET_MODE_FILTER, TSYNC
        raise OSError(ctypes.get_errno() or errno.EBUSY, "seccomp for all threads")


def is_filtered() -> bool:
    """Return whether a seccomp filter and no_new_privs are active."""
    return _prctl(PR_GET_SECCOMP) == 2 and _prctl(PR_GET_NO_NEW_PRIVS) == 1  # noqa: PLR2004


def can_create_namespace() -> bool:
    """Return whether unshare(CLONE_NEWUSER) works. Call it only in a process about to end."""
    return bool(_libc.unshare(0x10000000) == 0)


def get_landlock_abi() -> int:
    """Return the version of the kernel's Landlock, or 0 without Landlock."""
    version: int = _libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    return max(0, version)


def restrict_paths(readable: list[str], writable: list[str]) -> None:
    """Restrict this process and its children to these files by Landlock.

    From ABI 4 on they also cannot use TCP. From ABI 6 on they cannot signal other processes or
    connect to the abstract Unix sockets of others.

    Args:
        readable: Folders and files to read and execute.
        writable: Folders to use in every way except for device files.
    """
    abi = get_landlock_abi()
    rights = FIRST_RIGHTS
    rights |= REFER if abi >= 2 else 0  # noqa: PLR2004
    rights |= TRUNCATE if abi >= 3 else 0  # noqa: PLR2004
    rights |= IOCTL_DEV if abi >= 5 else 0  # noqa: PLR2004
    allowed = dict.fromkeys(readable, EXECUTE | READ_FILE | READ_DIR)
    allowed |= dict.fromkeys(writable, rights & ~(MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV))
    allowed |= dict.fromkeys(DEVICES, rights & (READ_FILE | WRITE_FILE | TRUNCATE))
    allowed[READABLE_DEVICE] = READ_FILE
    _enter_domain(abi, rights, allowed, network=3)


def isolate_processes(writable: list[str]) -> None:
    """Put this process and its children into a Landlock domain, if the kernel has one.

    None of them can look into a process outside the domain, such as the first of the sandbox, or
    write to it by `/proc/PID/mem`. From ABI 6 on they cannot signal it either.

    Args:
        writable: Folders to write to. Mounts already make all others read-only, except for
            device files.
    """
    abi = get_landlock_abi()
    if abi < OLDEST_DOMAIN_ABI:
        return
    allowed = dict.fromkeys((*writable, *DEVICES, *TERMINALS), WRITE_FILE)
    allowed["/"] = REFER
    _enter_domain(abi, WRITE_FILE | MAKE_CHAR | MAKE_BLOCK | REFER, allowed)


def _enter_domain(abi: int, rights: int, allowed: dict[str, int], network: int = 0) -> None:
    """Refuse these rights for good, except for what is allowed by path."""
    scope = 3 if abi >= 6 else 0  # noqa: PLR2004 - abstract Unix sockets and signals
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8  # noqa: PLR2004
    attributes = struct.pack("=QQQ", rights, network, scope)[:size]
    ruleset = _check_result(
        _libc.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0), "landlock"
    )
    try:
        for path, kept in allowed.items():
            _allow_path(ruleset, path, kept)
        set_no_new_privileges()
        _check_result(_libc.syscall(LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
        rule = struct.pack("=Qi", rights, target)
        _check_result(_libc.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock rule for {path}")
    finally:
        os.close(target)
