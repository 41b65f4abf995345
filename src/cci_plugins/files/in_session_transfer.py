"""File transfers that a session makes itself, between its folder and a URL.

The pool only runs code here: no byte of the file passes through it. The first call starts a child
process in the session and returns its public key. Then one transfer is a loop of calls, each with
the same job, sealed for this process, and at most `CALL_SECONDS` long:

    call -> `public`, `child`  a child process waits for the job
    call -> `plain`            the session has no child processes: jobs are not sealed
    call -> `size`, `sha256`   done
    call -> `failed`, `kind`   done, and the caller decides what the failure means
    call -> `more`, `etag`     the time was over, and the next call continues there
    call -> fault of the pool  unclear: the next call starts from the beginning

Invariants:

* A call may run twice, unlike code of the user. It moves one file to one place, and the file gets
  its name when it is whole. A fault drops `more` and `etag`, since the part may be incomplete.
* Tries and calls are bounded, since a session may answer `more` forever.
* The URL is a secret. Only the memory of the child process ever holds it. In a session without
  child processes, `in_session/transfer_main` removes the call from what IPython keeps, before it
  opens the connection, and also when the transfer fails.
* A report is untrusted. This module guarantees a JSON object. The caller checks its fields.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from cci_plugins.common.log import logger
from cci_plugins.errors import ExecutionTimeoutError, FileTransferError, PoolError, SessionLostError
from cci_plugins.in_session.marked_call import Program, ProgressParser, build_call, parse_call
from cci_plugins.in_session.sealing import SealError, seal
from cci_plugins.in_session.source import build_session_source
from cci_plugins.models import OutputEvent
from cci_plugins.pools.base import SessionPool

CALL_SECONDS = 120.0
OPEN_SECONDS = 30.0
GRACE_PERIOD = timedelta(seconds=60)  # for the answer, after a call's time is over
MAX_TRIES = 3
MAX_CALLS = 120  # four hours
_PROGRAM = Program(
    "_cci_files",
    (
        "common/addresses.py",
        "in_session/url_client.py",
        "in_session/transfer.py",
        "in_session/transfer_relay.py",
        "in_session/transfer_main.py",
    ),
)
_CHILD_MODULES = (
    "common/addresses.py",
    "in_session/url_client.py",
    "in_session/transfer.py",
    "in_session/sealing.py",
    "in_session/transfer_child.py",
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
    envelope = _Envelope()
    tries = 0
    for _ in range(MAX_CALLS):
        try:
            report = await _call(pool, session_id, envelope.pack(job), on_progress)
        except (PoolError, ExecutionTimeoutError, SessionLostError) as error:
            tries += 1
            if tries >= MAX_TRIES:
                raise FileTransferError(f"the session did not move the file: {error}") from error
            job = {name: value for name, value in job.items() if name not in {"more", "etag"}}
            envelope.forget_child()
            continue
        if envelope.accept(report):
            continue
        if "more" not in report:
            return report
        job |= {"more": report["more"], "etag": report.get("etag")}
    raise FileTransferError(
        f"the session did not move the file in time ({MAX_CALLS} calls of {CALL_SECONDS:g} seconds)"
    )


class _Envelope:
    """The form in which a session gets a job: sealed for a child process, or as it is."""

    def __init__(self) -> None:
        self._is_plain = False
        self._child: tuple[str, str] | None = None  # its name and its public key

    def pack(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return what to send: a request for a child process, or the job."""
        if self._is_plain:
            return job
        if self._child is None:
            return {"verb": "open", "source": _pack_child_source(), "seconds": OPEN_SECONDS}
        name, public = self._child
        sealed = seal(json.dumps(job).encode(), public)
        return {"verb": "move", "child": name, "sealed": sealed, "seconds": job["seconds"]}

    def accept(self, report: dict[str, Any]) -> bool:
        """Return whether a report is about the envelope only, and remember it.

        Raises:
            FileTransferError: The session sent an invalid public key.
        """
        if self._is_plain or self._child is not None:
            return False
        if report.get("plain") is True:
            self._is_plain = True
            logger.info("files: the session has no child processes, so it sees the URL itself")
        elif "public" in report:
            name, public = str(report.get("child")), str(report["public"])
            try:
                seal(b"", public)
            except SealError as error:
                raise FileTransferError(f"the session did not move the file: {error}") from None
            self._child = (name, public)
        else:
            return False
        return True

    def forget_child(self) -> None:
        """Ask for another child process, after a fault."""
        self._child = None


@cache
def _pack_child_source() -> str:
    source = build_session_source(*_CHILD_MODULES) + "run_child()\n"
    return base64.b64encode(zlib.compress(source.encode(), 9)).decode()


def is_transfer_code(code: str) -> bool:
    """Return whether code only moves a file, so that no user or model wrote it."""
    return parse_call(code, _PROGRAM) is not None


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
