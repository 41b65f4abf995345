"""Run a transfer inside of a session, by code that leaves no trace of its URL there."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from secrets import token_hex
from typing import Any

from cci_plugins.errors import ExecutionTimeoutError, FileTransferError, PoolError, SessionLostError
from cci_plugins.in_session.source import session_source
from cci_plugins.models import Execution, OutputEvent
from cci_plugins.pools.base import SessionPool

SECONDS = 120.0  # of one call; longer transfers go on with another one
SPARE = timedelta(seconds=60)
TRIES = 3
CALLS = 120  # four hours of them
DIGITS = 18  # of a number of bytes

Told = Callable[[int], object]


async def transfer_inside(
    pool: SessionPool, session_id: str, job: dict[str, Any], told: Told
) -> dict[str, Any]:
    """Have a session do a transfer; see `transfer.transfer` for jobs and reports.

    A call whose answer is lost is made again: moving one file to one place twice is harmless.

    Args:
        pool: Whose session.
        session_id: Which.
        job: `verb`, `url`, `name` in the session, and what else `transfer` knows.
        told: Told the bytes that were moved so far.

    Raises:
        FileTransferError: The session ended, or did not answer as it should.
    """
    job = {"seconds": SECONDS, **job}
    tries = 0
    for _ in range(CALLS):
        try:
            report = await _call(pool, session_id, job, told)
        except (PoolError, ExecutionTimeoutError, SessionLostError) as error:
            tries += 1
            if tries >= TRIES:
                raise FileTransferError(f"the session did not move the file: {error}") from error
            job = {name: value for name, value in job.items() if name not in {"more", "etag"}}
            continue
        if "more" not in report:
            return report
        job |= {"more": report["more"], "etag": report.get("etag")}
    raise FileTransferError("the session did not move the file in time")


async def _call(
    pool: SessionPool, session_id: str, job: dict[str, Any], told: Told
) -> dict[str, Any]:
    mark = token_hex(16)
    listener = _Listener(mark, told)
    limit = timedelta(seconds=job["seconds"]) + SPARE
    execution = await pool.execute(
        session_id, _code(mark, job), timeout=limit, on_output=listener.hear
    )
    return _report(execution, mark)


def _code(mark: str, job: dict[str, Any]) -> str:
    """One expression that binds no name and has no value."""
    call = f"[exec(ns['s'],ns),ns['main'](get_ipython(),{mark!r},__import__('json').loads({json.dumps(job)!r}))]"  # noqa: E501 - it is one line there
    return (
        f"(lambda ns:{call} and None)(dict(s=__import__('zlib').decompress("
        f"__import__('base64').b64decode('{_packed()}')).decode(),__name__='_cci_files'))"
    )


@cache
def _packed() -> str:
    source = session_source(
        "common/addresses.py", "in_session/transfer.py", "in_session/transfer_main.py"
    )
    return base64.b64encode(zlib.compress(source.encode(), 9)).decode()


def _report(execution: Execution, mark: str) -> dict[str, Any]:
    """What was said between the last two marks."""
    before, _, rest = execution.stdout.rpartition(mark)
    text = before.rpartition(mark)[2]
    try:
        report = json.loads(text) if rest == "" or not rest.strip() else None
    except (ValueError, RecursionError):  # what a session says need not be true
        report = None
    if isinstance(report, dict):
        return report
    why = execution.error.name if execution.error is not None else "it did not say how it went"
    raise FileTransferError(f"the session could not move the file: {why}")


class _Listener:
    """Hears how far a transfer has come."""

    def __init__(self, mark: str, told: Told) -> None:
        self._mark, self._told, self._line = mark, told, ""

    def hear(self, event: OutputEvent) -> None:
        """Take a piece of output."""
        if event.stream != "stdout":
            return
        *lines, line = (self._line + event.text).split("\n")
        self._line = line[: len(self._mark) + DIGITS + 1]
        for line in lines:
            number = line.removeprefix(self._mark)
            if number != line and number.isdecimal() and len(number) <= DIGITS:
                self._told(int(number))
