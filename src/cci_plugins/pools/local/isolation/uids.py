"""User ids for sessions of an app that runs as root: one for each, so that limits count apart."""

from __future__ import annotations

import secrets

FIRST, LAST, BLOCK = 20_000, 60_000, 100

# Apps on one machine start at different blocks, so that they rarely meet.
_start = FIRST + BLOCK * secrets.randbelow((LAST - FIRST) // BLOCK)
_allocated_uids: set[int] = set()


def allocate() -> int:
    """A user id that no account and no live session of this process has."""
    for step in range(LAST - FIRST):
        uid = FIRST + (_start - FIRST + step) % (LAST - FIRST)
        if uid not in _allocated_uids and not _has_account(uid):
            _allocated_uids.add(uid)
            return uid
    raise RuntimeError("no user id is left for a session")


def release(uid: int | None) -> None:
    """Let a later session have this id."""
    if uid is not None:
        _allocated_uids.discard(uid)


def _has_account(uid: int) -> bool:
    import pwd  # noqa: PLC0415 - Windows has no such module

    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
