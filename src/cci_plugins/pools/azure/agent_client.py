"""Client of the session agent: calls its verbs, and fetches what one answer cannot hold.

Pools cut the output of a run, the platform's REST API at 4,096 characters. The limit of another
pool is not documented, so it is found by trying. The first long fetch asks for much at once. If
the answer arrives whole, later ones ask for as much. If it is cut, its length is the limit. A cut
answer costs nothing but the call, since every call here may be repeated.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from secrets import token_hex
from typing import Any

from cci_plugins.common.limits import MIB, Limits
from cci_plugins.common.log import logger
from cci_plugins.errors import (
    CodeInterpreterError,
    ExecutionTimeoutError,
    PoolError,
    ProtocolError,
)
from cci_plugins.in_session.marked_call import Answer, MarkedCall, Program, build_call, parse_call
from cci_plugins.in_session.session_agent import MODULE_NAME
from cci_plugins.in_session.source import DATA_FORMAT_MODULES, PLAIN_PYTHON_MODULES
from cci_plugins.mcp_client.bodies import decode_in_lane
from cci_plugins.mcp_client.http import limit_time, was_sent
from cci_plugins.mcp_client.messages import decode_json
from cci_plugins.models import ErrorInfo, Execution

from .cci_server import raise_unsent_error
from .retry import RetryPolicy

SAFE_CHARS = 3_000  # characters of a chunk that fit with its header under the platform's 4,096
WIDE_CHARS = 1_000_000
MIN_CHUNK = 1_000  # of each chunk but the last. The agent always sends what was asked for
MAX_READY = 10_000  # sessions that are remembered
HEADER_CHARS = 400  # most characters of an answer around its chunk
REPORT_CHARACTERS = 128 * MIB  # of a report as it is sent, since a session may send anything
REPORT_BYTES = 256 * MIB  # of the same, unpacked
UNPACKED_PER_CHARACTER = 50  # more than of any ordinary report
_AGENT = Program(
    MODULE_NAME,
    (
        *DATA_FORMAT_MODULES,
        *PLAIN_PYTHON_MODULES,
        "in_session/background_output.py",
        "in_session/environment.py",
        "in_session/usage.py",
        "in_session/output_log.py",
        "in_session/run_capture.py",
        "in_session/session_agent.py",
    ),
    is_kept=True,
)

Sender = Callable[[str, str, timedelta], Awaitable[Execution]]


class AgentClient:
    """Calls the session agent of each session.

    Args:
        send: Runs code in a session within a time. It raises as `SessionPool.execute` does and
            never tries twice.
        retry: Repeats what may be repeated.
        limits: `execution_timeout` bounds the wait for a busy session.
        margin: Added to a run's own limit to wait for the pool's answer.

    Attributes:
        max_chars: Characters of a chunk that are known to arrive whole.
    """

    def __init__(
        self, send: Sender, *, retry: RetryPolicy, limits: Limits, margin: timedelta
    ) -> None:
        self._send = send
        self._retry = retry
        self._busy_limit = limits.execution_timeout + margin
        self._report_limit = 2 * margin
        self.max_chars = SAFE_CHARS
        self._has_found_limit = False  # an answer was cut, so `max_chars` is the most
        self._ready: dict[str, str] = {}  # sessions whose agent has answered, with its instance

    async def send_named(
        self, session_id: str, call: MarkedCall, limit: timedelta, faults: list[Exception]
    ) -> Execution:
        """Send a run, whose name the agent accepts once.

        What did not start, as the pool answers, is sent again under the same name.

        Args:
            session_id: The session.
            call: The run.
            limit: How long to wait for each answer.
            faults: Gets the errors of all tries that may have reached the pool.
        """

        async def send() -> Execution:
            try:
                return await self._send_call(session_id, call, limit)
            except CodeInterpreterError as error:
                if was_sent(error):
                    faults.append(error)
                raise

        return await self._retry.call_with_retry(send)

    async def call(
        self,
        session_id: str,
        verb: str,
        *,
        limit: timedelta | None = None,
        is_repeated: bool = True,
        **arguments: Any,
    ) -> Answer:
        """Call a verb that may run twice.

        Args:
            session_id: The session.
            verb: The agent's method, except `run` and `run_async`.
            limit: How long to wait.
            is_repeated: Whether to call again after a failure.
            **arguments: The method's arguments.

        Raises:
            PoolError: The pool or the session failed, or the pool cut the answer.
        """
        call = build_agent_call(verb, **arguments)

        async def send() -> Answer:
            time_limit = limit or self._get_time_limit(verb)
            reply = await self._send_call(session_id, call, time_limit)
            answer = _parse_whole(call, reply.stdout)
            if answer is None and reply.error is not None:
                raise PoolError(f"the session cannot be used: {format_error(reply)}")
            if answer is None:
                raise ProtocolError("the pool cut the session's answer")
            return answer

        if not is_repeated:
            return await self._retry.call_with_renewal(send)
        return await self._retry.call_with_retry(send, idempotent=True)

    async def fetch_report(
        self, session_id: str, run: str, first: Answer, limit: timedelta | None = None
    ) -> Any:
        """Return a whole report, as JSON values.

        Args:
            session_id: The session.
            run: The report's run.
            first: The answer with the report's first chunk.
            limit: How long to wait for all of it.

        Raises:
            PoolError: The session no longer has the report, or sends it too slowly.
            ProtocolError: It is too large or malformed.
        """
        limit = max(self._busy_limit if limit is None else limit, self._report_limit)
        with limit_time(limit, starts_code=False):
            text = await self._fetch_text(session_id, run, first)
            return await decode_in_lane(
                len(text) * UNPACKED_PER_CHARACTER, partial(_unpack_report, text)
            )

    async def _fetch_text(self, session_id: str, run: str, first: Answer) -> str:
        chunks, at, total = [first.text], len(first.text), get_total(first)
        if total > REPORT_CHARACTERS:
            raise ProtocolError(
                f"the session's report is too large: {total:,} characters, "
                f"at most {REPORT_CHARACTERS:,} are accepted"
            )
        while at < total:
            answer = await self.fetch_chunk(session_id, "emit_report", at, total, run=run)
            if not answer.text or get_total(answer) != total:
                raise PoolError("the session no longer has the report")
            check_chunk(len(answer.text), total - at)
            chunks.append(answer.text)
            at += len(answer.text)
        return "".join(chunks)

    async def fetch_chunk(
        self,
        session_id: str,
        verb: str,
        at: int,
        total: int,
        *,
        per_byte: float = 1,
        **arguments: Any,
    ) -> Answer:
        """Fetch a chunk of at most the length that the pool lets through.

        Args:
            session_id: The session.
            verb: `emit_report` or `read`.
            at: Where the chunk begins.
            total: Length of the whole, as far as known.
            per_byte: Characters of the answer for each unit of `at` and `total`.
            **arguments: Further arguments of the verb.
        """
        wanted = math.ceil((total - at) * per_byte)
        while True:
            is_probing = not self._has_found_limit and wanted > self.max_chars
            max_chars = min(wanted, WIDE_CHARS if is_probing else self.max_chars)
            length = math.ceil(max_chars / per_byte)
            call = build_agent_call(verb, at=at, length=length, **arguments)
            reply = await self._retry.call_with_retry(
                lambda: self._send_call(session_id, call, self._get_time_limit(verb)),  # noqa: B023 - awaited here
                idempotent=True,
            )
            answer = _parse_whole(call, reply.stdout)
            if answer is not None:
                self.max_chars = max(self.max_chars, len(answer.text))
                return answer
            if not is_probing or len(reply.stdout) < SAFE_CHARS:
                length = int(SAFE_CHARS / per_byte)
                return await self.call(session_id, verb, at=at, length=length, **arguments)
            self.max_chars = max(len(reply.stdout) - HEADER_CHARS, SAFE_CHARS)
            self._has_found_limit = True
            logger.info("the pool cuts output at about %d characters", len(reply.stdout))

    async def _send_call(self, session_id: str, call: MarkedCall, limit: timedelta) -> Execution:
        """Send a call, without the agent's source where the session has the agent already.

        A session that was replaced answers that the agent is absent. Nothing has run then, and the
        call is sent with the source. A run that forges this answer cannot begin again, since its
        name has begun.
        """
        if session_id in self._ready:
            reply = await self._send(session_id, call.short_code, limit)
            answer = call.parse_answer(reply.stdout)
            if answer is None or "absent" not in answer.fields:
                return reply
            self._ready.pop(session_id, None)  # another call may have found it too
        reply = await self._send(session_id, call.code, limit)
        answer = call.parse_answer(reply.stdout)
        if answer is not None:
            if len(self._ready) >= MAX_READY:
                self._ready.clear()
            self._ready[session_id] = get_instance(answer)
        return reply

    def forget(self, session_id: str) -> None:
        """Forget the instance that has answered."""
        self._ready.pop(session_id, None)

    async def find_instance(self, session_id: str) -> str:
        """Return the instance of a session. A new session is asked once, before code is sent to it.

        Raises:
            CodeInterpreterError: The pool has no place for the session, or failed.
        """
        if session_id not in self._ready:
            try:
                await self.call(
                    session_id,
                    "emit_report",
                    limit=self._busy_limit,
                    run=token_hex(8),
                    at=0,
                    length=0,
                )
            except (PoolError, ExecutionTimeoutError) as error:
                raise_unsent_error(error)
        return self._ready.get(session_id, "")

    def _get_time_limit(self, verb: str) -> timedelta:
        """Return how long to wait. Running code delays all verbs but the report of its own end."""
        return self._report_limit if verb == "emit_report" else self._busy_limit


def build_agent_call(verb: str, **arguments: Any) -> MarkedCall:
    """Build a call of the agent's method `verb`."""
    return build_call(_AGENT, {"verb": verb, **arguments}, awaits=verb == "run_async")


def is_agent_call(code: str) -> bool:
    """Return whether code only calls the agent, for anything but a run of the user's code."""
    job = parse_call(code, _AGENT)
    return job is not None and job.get("verb") not in {"run", "run_async"}


def check_chunk(size: int, left: int) -> None:
    """Refuse a chunk that is much shorter than what was asked for, since it would never end.

    Args:
        size: Size of the chunk.
        left: Size of what the chunk was the beginning of.

    Raises:
        ProtocolError: The session sent less.
    """
    if size < min(MIN_CHUNK, left):
        raise ProtocolError(f"the session sent a chunk of {size:,} where {left:,} were left")


def _parse_whole(call: MarkedCall, stdout: str) -> Answer | None:
    """Return the answer in the output, or None if it is missing or was cut anywhere.

    A server that renders output for a model keeps its head and tail, and so both markers.
    """
    answer = call.parse_answer(stdout)
    if answer is None:
        return None
    length = answer.get_int("length")
    return answer if length is None or length == len(answer.text) else None


def get_total(answer: Answer) -> int:
    """Return the length of the whole report or file, of which the answer has a chunk."""
    return answer.get_int("total") or 0


def get_instance(answer: Answer) -> str:
    """Return the name of the session's instance that answered."""
    return str(answer.fields.get("instance", ""))


def format_error(reply: Execution) -> str:
    """Format the error of a pool's reply, for a message."""
    error = reply.error or ErrorInfo("Error", "")
    return f"{error.name}: {error.message}"[:500]


def _unpack_report(text: str) -> Any:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), REPORT_BYTES)
        if unpacker.unconsumed_tail:
            raise ProtocolError(
                f"the session's report is too large: more than {REPORT_BYTES:,} bytes"
            )
    except (ValueError, zlib.error) as error:
        raise ProtocolError("the session sent a malformed report") from error
    return decode_json(data)
