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
from cci_plugins.in_session.source import build_session_source
from cci_plugins.models import Execution, OutputEvent
from cci_plugins.pools.base import SessionPool

CALL_SECONDS = 120.0  # of one call; longer transfers go on with another one
GRACE_PERIOD = timedelta(seconds=60)
MAX_TRIES = 3
MAX_CALLS = 120  # four hours of them
MAX_DIGITS = 18  # of a number of bytes

ProgressHandler = Callable[[int], object]


async def transfer_in_session(
    pool: SessionPool, session_id: str, job: dict[str, Any], on_progress: ProgressHandler
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
    job = {"seconds": CALL_SECONDS, **job}
    tries = 0
    for _ in range(MAX_CALLS):
        try:
            report = await _call(pool, session_id, job, on_progress)
        except (PoolError, ExecutionTimeoutError, SessionLostError) as error:
            tries += 1
            if tries >= MAX_TRIES:
                raise FileTransferError(f"the session did not move the file: {error}") from error
            job = {name: value for name, value in job.items() if name not in {"more", "etag"}}
            continue
        if "more" not in report:
            return report
        job |= {"more": report["more"], "etag": report.get("etag")}
    raise FileTransferError("the session did not move the file in time")


async def _call(
    pool: SessionPool, session_id: str, job: dict[str, Any], on_progress: ProgressHandler
) -> dict[str, Any]:
    marker = token_hex(16)
    parser = _ProgressParser(marker, on_progress)
    limit = timedelta(seconds=job["seconds"]) + GRACE_PERIOD
    execution = await pool.execute(
        session_id, _build_code(marker, job), timeout=limit, on_output=parser.handle_output
    )
    return _parse_report(execution, marker)


def _build_code(marker: str, job: dict[str, Any]) -> str:
    """One expression that binds no name and has no value."""
    call = f"[exec(ns['s'],ns),ns['main'](get_ipython(),{marker!r},__import__('json').loads({json.dumps(job)!r}))]"  # noqa: E501 - it is one line there
    return (
        f"(lambda ns:{call} and None)(dict(s=__import__('zlib').decompress("
        f"__import__('base64').b64decode('{_pack_source()}')).decode(),__name__='_cci_files'))"
    )


@cache
def _pack_source() -> str:
    source = build_session_source(
        "common/addresses.py", "in_session/transfer.py", "in_session/transfer_main.py"
    )
    return base64.b64encode(zlib.compress(source.encode(), 9)).decode()


def _parse_report(execution: Execution, marker: str) -> dict[str, Any]:
    """What was said between the last two marks."""
    before, _, rest = execution.stdout.rpartition(marker)
    text = before.rpartition(marker)[2]
    try:
        report = json.loads(text) if rest == "" or not rest.strip() else None
    except (ValueError, RecursionError):  # what a session says need not be true
        report = None
    if isinstance(report, dict):
        return report
    why = execution.error.name if execution.error is not None else "it did not say how it went"
    raise FileTransferError(f"the session could not move the file: {why}")


class _ProgressParser:
    """Hears how far a transfer has come."""

    def __init__(self, marker: str, on_progress: ProgressHandler) -> None:
        self._marker, self._on_progress, self._line = marker, on_progress, ""

    def handle_output(self, event: OutputEvent) -> None:
        """Take a piece of output."""
        if event.stream != "stdout":
            return
        *lines, line = (self._line + event.text).split("\n")
        self._line = line[: len(self._marker) + MAX_DIGITS + 1]
        for line in lines:
            number = line.removeprefix(self._marker)
            if number != line and number.isdecimal() and len(number) <= MAX_DIGITS:
                self._on_progress(int(number))
