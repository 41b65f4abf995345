"""User ids for the sessions of an app that runs as root.

Each live session has its own, so that the kernel counts its limits apart and no session can send
a signal to another.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from cci_plugins.errors import IsolationError

FIRST, LAST, BLOCK = 20_000, 60_000, 100

# Apps on one machine start at different blocks, so that they rarely use the same id.
_start = FIRST + BLOCK * secrets.randbelow((LAST - FIRST) // BLOCK)
_allocated_uids: set[int] = set()


def can_allocate() -> bool:
    """Return whether this process is root and its user namespace has ids for sessions.

    Root of a user namespace that maps only itself is an ordinary user.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    return any(map(_is_mapped, range(FIRST, LAST, BLOCK)))


def allocate() -> int:
    """Return a user id that no account and no live session of this process has.

    Raises:
        IsolationError: None is free.
    """
    for step in range(LAST - FIRST):
        uid = FIRST + (_start - FIRST + step) % (LAST - FIRST)
        if uid not in _allocated_uids and _is_mapped(uid) and not _has_account(uid):
            _allocated_uids.add(uid)
            return uid
    raise IsolationError(
        f"no user id from {FIRST} to {LAST - 1} is free for a session",
        hint="end other sessions, or run the app as another user than root",
    )


def release(uid: int | None) -> None:
    """Let a later session use this id."""
    if uid is not None:
        _allocated_uids.discard(uid)


@contextlib.contextmanager
def release_on_failure(uid: int | None) -> Iterator[None]:
    """Release an id if the block fails, which makes the session that would own it."""
    try:
        yield
    except BaseException:
        release(uid)
        raise


def _is_mapped(uid: int) -> bool:
    """Return whether the user namespace maps this user and group id."""
    return all(
        any(first <= uid < first + count for first, count in _read_map(name))
        for name in ("uid_map", "gid_map")
    )


@lru_cache
def _read_map(name: str) -> tuple[tuple[int, int], ...]:
    """Return the first id and the number of ids of each range that is mapped."""
    try:
        lines = Path("/proc/self", name).read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux, or one without user namespaces
        return ((0, 2**32),)
    return tuple((int(first), int(count)) for first, _, count in map(str.split, lines))


def _has_account(uid: int) -> bool:
    import pwd  # noqa: PLC0415 - Windows has no such module

    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
