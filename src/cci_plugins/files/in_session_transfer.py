"""File transfers that a session makes itself, between its folder and a URL.

The pool only runs code here: no byte of the file passes through it. One transfer is a loop of
calls, each with the same job and at most `CALL_SECONDS` long:

    call -> `size`, `sha256`   done
    call -> `failed`, `kind`   done, and the caller decides what the failure means
    call -> `more`, `etag`     the time was over, and the next call continues there
    call -> fault of the pool  unclear: the next call starts from the beginning

Invariants:

* A call may run twice, unlike code of the user. It moves one file to one place, and the file gets
  its name when it is whole. A fault drops `more` and `etag`, since the part may be incomplete.
* Tries and calls are bounded, since a session may answer `more` forever.
* The URL is a secret. `in_session/transfer_main` removes the call from the session's memory before
  it opens the connection, also when the transfer fails.
* A report is untrusted. This module guarantees a JSON object. The caller checks its fields.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from cci_plugins.errors import ExecutionTimeoutError, FileTransferError, PoolError, SessionLostError
from cci_plugins.in_session.marked_call import Program, ProgressParser, build_call
from cci_plugins.models import OutputEvent
from cci_plugins.pools.base import SessionPool

CALL_SECONDS = 120.0
GRACE_PERIOD = timedelta(seconds=60)  # for the answer, after a call's time is over
MAX_TRIES = 3
MAX_CALLS = 120  # four hours
_PROGRAM = Program(
    "_cci_files",
    (
        "common/addresses.py",
        "in_session/url_client.py",
        "in_session/transfer.py",
        "in_session/transfer_main.py",
    ),
)

ProgressHandler = Callable[[int], object]


async def transfer_in_session(
    pool: SessionPool, session_id: str, job: dict[str, Any], on_progress: ProgressHandler
) -> dict[str, Any]:
    """Run a transfer in a session.

    Args:
        pool: The session's pool.
        session_id: The session.
        job: A job of `in_session.transfer.transfer`, with the file's `name` in the session in
            place of `path`, and without `seconds`.
        on_progress: Called with the bytes that were moved so far.

    Returns:
        A report of `transfer`, unchecked.

    Raises:
        FileTransferError: The session ended, sent no valid answer, or took too long.
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
    raise FileTransferError(
        f"the session did not move the file in time ({MAX_CALLS} calls of {CALL_SECONDS:g} seconds)"
    )


async def _call(
    pool: SessionPool, session_id: str, job: dict[str, Any], on_progress: ProgressHandler
) -> dict[str, Any]:
    call = build_call(_PROGRAM, job)
    parser = ProgressParser(call, on_progress)

    def handle_output(event: OutputEvent) -> None:
        if event.stream == "stdout":
            parser.feed(event.text)

    limit = timedelta(seconds=job["seconds"]) + GRACE_PERIOD
    execution = await pool.execute(session_id, call.code, timeout=limit, on_output=handle_output)
    answer = call.parse_answer(execution.stdout)
    if answer is not None:
        return answer.fields
    reason = "it sent no valid answer" if execution.error is None else execution.error.name
    raise FileTransferError(f"the session did not move the file: {reason}")
