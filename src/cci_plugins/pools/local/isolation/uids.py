"""User ids for the sessions of an app that runs as root.

Each live session has its own, so that the kernel counts its limits apart and no session can send
a signal to another.
"""

from __future__ import annotations

import secrets

FIRST, LAST, BLOCK = 20_000, 60_000, 100

# Apps on one machine start at different blocks, so that they rarely use the same id.
_start = FIRST + BLOCK * secrets.randbelow((LAST - FIRST) // BLOCK)
_allocated_uids: set[int] = set()


def allocate() -> int:
    """Return a user id that no account and no live session of this process has."""
    for step in range(LAST - FIRST):
        uid = FIRST + (_start - FIRST + step) % (LAST - FIRST)
        if uid not in _allocated_uids and not _has_account(uid):
            _allocated_uids.add(uid)
            return uid
    raise RuntimeError(f"no user id from {FIRST} to {LAST - 1} is free for a session")


def release(uid: int | None) -> None:
    """Let a later session use this id."""
    if uid is not None:
        _allocated_uids.discard(uid)


def _has_account(uid: int) -> bool:
    import pwd  # noqa: PLC0415 - Windows has no such module

    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
