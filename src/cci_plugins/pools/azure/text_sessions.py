"""Rich sessions on pools that answer in text only, by a guest in each session.

The guest (`guest.py`) keeps what a run put out and reports it in frames that no output can
forge: their marker is random and made for one call. Long reports are fetched in pieces. Since the
guest knows every run by its name, a reply that was lost on the way is asked for again, and what
did not begin is made never to begin, so nothing runs twice.
"""

from __future__ import annotations

import ast
import base64
import inspect
import json
import math
import re
import warnings
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from secrets import token_hex
from typing import Any

from cci_plugins.common.file_names import guess_media_type, validate_name
from cci_plugins.common.limits import MIB, Limits
from cci_plugins.common.log import logger
from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    FileTooLargeError,
    FileTransferError,
    PoolError,
    PoolUnavailableError,
    ProtocolError,
    SessionFileNotFoundError,
    SessionLostError,
)
from cci_plugins.in_session.session_agent import MODULE_NAME
from cci_plugins.in_session.source import DATA_FORMAT_MODULES, build_session_source
from cci_plugins.mcp_client.executions import load_execution, load_file
from cci_plugins.mcp_client.failures import MAY_HAVE_RUN
from cci_plugins.models import ErrorInfo, Execution, FileInfo

from .retry import RetryPolicy

SAFE_CHARS = 3_000  # characters of a report that fit beside a frame under the platform's 4,096
WIDE_CHARS = 1_000_000
FRAME_OVERHEAD = 400  # most characters of a frame around its piece
UPLOAD_CHUNK = 512 * 1024
REPORT_CHARACTERS = 128 * MIB  # of a report as it is sent; a session can say anything
REPORT_BYTES = 256 * MIB  # of the same, unpacked
MAX_TRIES = 5
_AGENT_SOURCES = ("in_session/streams.py", *DATA_FORMAT_MODULES, "in_session/session_agent.py")
_AWAITS = re.compile(r"\b(await|async)\b")

Sender = Callable[[str, str, timedelta], Awaitable[Execution]]


@dataclass(frozen=True, slots=True)
class Frame:
    """What the guest printed for one call."""

    header: Mapping[str, Any]
    chunk: str

    @property
    def instance(self) -> str:
        """The session's instance."""
        return str(self.header.get("instance", ""))

    @property
    def total(self) -> int:
        """Length of the whole report or file."""
        value = self.header.get("total")
        return value if isinstance(value, int) else 0


class TextSessions:
    """Runs code and moves files through a guest in each session.

    Args:
        send: Has a pool run code in a session within a time; raises as `SessionPool.execute`
            does, and never tries twice.
        patience: Tries again what surely did not start.
        limits: `pieces_bytes` bounds a transfer, `execution_timeout` the wait for a busy session.
        margin: Waited beyond a run's own limit for the pool's answer.
    """

    def __init__(
        self, send: Sender, *, retry: RetryPolicy, limits: Limits, margin: timedelta
    ) -> None:
        self._send = send
        self._retry = retry
        self._limits = limits
        self._margin = margin
        self._max_chars = SAFE_CHARS
        self._max_answer_chars: int | None = (
            None  # what fits into one answer, once an answer was cut
        )

    async def execute(
        self, session_id: str, code: str, *, timeout: timedelta, instance: str | None
    ) -> Execution:
        """Run code once; see `SessionPool.execute`."""
        for _ in range(MAX_TRIES):
            execution = await self._run(session_id, code, timeout, instance)
            if execution is not None:
                return execution
        raise PoolUnavailableError(
            "the pool lost the request again and again; the code did not run"
        )

    async def upload(self, session_id: str, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        """Write a file in pieces; it takes its name with the last one."""
        name, run, at = validate_name(name), token_hex(8), 0
        async for chunk, is_last in _split_chunks(content):
            if at + len(chunk) > self._limits.pieces_bytes:
                raise FileTooLargeError(
                    f"{name!r} is larger than {self._limits.pieces_bytes:,} bytes",
                    size=at + len(chunk),
                    limit=self._limits.pieces_bytes,
                )
            data = base64.b64encode(chunk).decode()
            frame = await self._call_agent(
                session_id, "write", name=name, run=run, at=at, data=data, is_last=is_last
            )
            if "failed" in frame.header:
                raise FileTransferError(f"cannot write {name!r}: {frame.header['failed']}")
            at += len(chunk)
        return FileInfo(name, at, guess_media_type(name))

    async def download(self, session_id: str, name: str) -> AsyncGenerator[bytes]:
        """Read a file in pieces."""
        name, at, total = validate_name(name), 0, SAFE_CHARS // 2
        while at < total:
            frame = await self._fetch_chunk(
                session_id, "read", at, total, per_byte=4 / 3, name=name
            )
            if "missing" in frame.header:
                raise _build_not_found_error(name)
            data, total = _decode_chunk(frame.chunk), frame.total
            if not data and at < total:
                raise FileTransferError(f"{name!r} became shorter while it was read")
            at += len(data)
            yield data

    async def list_files(self, session_id: str) -> list[FileInfo]:
        """The session's files by name."""
        run = token_hex(8)
        frame = await self._call_agent(session_id, "list_files", run=run, max_chars=self._max_chars)
        report = await self._fetch_report(session_id, run, frame)
        try:
            return [_add_media_type(load_file(file)) for file in report]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProtocolError("the session listed its files in an unknown form") from error

    async def delete_file(self, session_id: str, name: str) -> None:
        """Remove a file."""
        frame = await self._call_agent(session_id, "remove", name=validate_name(name))
        if "missing" in frame.header:
            raise _build_not_found_error(name)

    async def wipe(self, session_id: str) -> None:
        """Forget a session's variables and files, where the pool cannot end it."""
        await self._call_agent(session_id, "wipe")

    async def _run(
        self, session_id: str, code: str, timeout: timedelta, instance: str | None
    ) -> Execution | None:
        """Run code; None when it surely did not begin and never will, so that it may be sent."""
        run, marker = token_hex(8), token_hex(16)
        request = _build_call(
            "run_async" if needs_await(code) else "run",
            marker,
            run=run,
            code=code,
            timeout=timeout.total_seconds(),
            max_chars=self._max_chars,
            instance=instance,
        )
        limit = timeout + self._margin
        sent = _SentRun(run, instance, limit)
        try:
            sent.answer = await self._retry.call_with_retry(
                lambda: self._send(session_id, request, limit)
            )
        except CodeInterpreterError as error:
            if error.retryable or isinstance(error, (AuthenticationError, ConfigurationError)):
                raise
            sent.fault = error
        found, around = find_frame(sent.answer.stdout, marker)
        frame = found
        if frame is None:
            frame = await self._resolve_run(session_id, sent)
        if frame is None or "refused" in frame.header:
            return None
        if "replaced" in frame.header:
            raise SessionLostError(
                "the pool replaced the session", hint="run the earlier steps again", retryable=True
            )
        if "total" not in frame.header:
            return _build_unreported_execution(sent, frame, session_id)
        try:
            execution = load_execution(await self._fetch_report(session_id, run, frame), session_id)
        except CodeInterpreterError as error:  # whatever it says of itself, the code ran
            kind = ProtocolError if isinstance(error, ProtocolError) else PoolError
            raise kind(f"the code ran, but what it put out is lost: {error}") from error
        return _add_child_output(execution, sent.answer, around, is_cut=found is None)

    async def _resolve_run(self, session_id: str, sent: _SentRun) -> Frame | None:
        """Find out what became of a run whose reply is not there, or not whole.

        Returns:
            The first frame of its report; a frame without one, when the session ended under the
            run; None when it did not begin, and never will.

        Raises:
            CodeInterpreterError: It cannot be found out: it may have run.
        """
        unclear = sent.fault or ProtocolError(f"the pool's answer was cut; {MAY_HAVE_RUN}")
        try:
            frame = await self._call_agent(
                session_id, "resolve_run", limit=sent.limit, run=sent.run
            )
            if frame.header.get("began") is True:
                report = await self._call_agent(
                    session_id, "emit_report", limit=sent.limit, run=sent.run, at=0, length=0
                )
                if report.total:
                    return report
        except CodeInterpreterError as error:
            logger.info("what became of a run cannot be found out: %s", error)
            raise unclear from None
        if "replaced" in frame.header:
            return frame
        died = frame.header.get("new") is True  # the session that answered is not there any more
        ended = sent.fault is None and (died or sent.answer.error is not None)
        if frame.header.get("began") is not True and frame.instance == sent.instance:
            if ended:
                raise PoolError(f"the pool could not run the code: {_format_error(sent.answer)}")
            return None
        if ended:
            return frame
        raise unclear

    async def _fetch_report(self, session_id: str, run: str, first: Frame) -> Any:
        """A whole report, of which the first frame may have all."""
        chunks, at, total = [first.chunk], len(first.chunk), first.total
        if total > REPORT_CHARACTERS:
            raise ProtocolError("the session's report is too large")
        while at < total:
            frame = await self._fetch_chunk(session_id, "emit_report", at, total, run=run)
            if not frame.chunk or frame.total != total:
                raise PoolError("the session has it no longer")
            chunks.append(frame.chunk)
            at += len(frame.chunk)
        return _unpack_report("".join(chunks))

    async def _fetch_chunk(
        self, session_id: str, verb: str, at: int, total: int, *, per_byte: float = 1, **what: Any
    ) -> Frame:
        """A piece as long as the pool lets through, which is found out by trying."""
        wanted = math.ceil((total - at) * per_byte)
        while True:
            is_probing = self._max_answer_chars is None and wanted > self._max_chars
            max_chars = min(wanted, WIDE_CHARS if is_probing else self._max_chars)
            marker = token_hex(16)
            request = _build_call(
                verb, marker, at=at, length=math.ceil(max_chars / per_byte), **what
            )
            answer = await self._retry.call_with_retry(
                lambda: self._send(session_id, request, self._get_time_limit(verb)),  # noqa: B023 - awaited here
                idempotent=True,
            )
            frame, _ = find_frame(answer.stdout, marker)
            if frame is not None:
                self._max_chars = max(self._max_chars, len(frame.chunk))
                return frame
            if not is_probing or len(answer.stdout) < SAFE_CHARS:
                length = int(SAFE_CHARS / per_byte)
                return await self._call_agent(session_id, verb, at=at, length=length, **what)
            self._max_chars = self._max_answer_chars = max(
                len(answer.stdout) - FRAME_OVERHEAD, SAFE_CHARS
            )
            logger.info("the pool cuts output at about %d characters", len(answer.stdout))

    async def _call_agent(
        self, session_id: str, verb: str, *, limit: timedelta | None = None, **what: Any
    ) -> Frame:
        """Have the guest do something that may be done twice."""
        marker = token_hex(16)
        request = _build_call(verb, marker, **what)

        async def call() -> Frame:
            answer = await self._send(session_id, request, limit or self._get_time_limit(verb))
            frame, _ = find_frame(answer.stdout, marker)
            if frame is None and answer.error is not None:
                raise PoolError(f"the session cannot be used: {_format_error(answer)}")
            if frame is None:
                raise ProtocolError("the pool cut the session's answer")
            return frame

        return await self._retry.call_with_retry(call, idempotent=True)

    def _get_time_limit(self, verb: str) -> timedelta:
        """How long to wait: code that runs keeps all but the report of its own end waiting."""
        return (
            2 * self._margin
            if verb == "emit_report"
            else self._limits.execution_timeout + self._margin
        )


@dataclass(slots=True)
class _SentRun:
    """A run that was sent, and what is known of it."""

    run: str
    instance: str | None
    limit: timedelta
    answer: Execution = field(default_factory=Execution)
    fault: CodeInterpreterError | None = None


def needs_await(code: str) -> bool:
    """Whether code awaits at its top level; the guest runs it in another way then."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = compile(code, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return _AWAITS.search(code) is not None  # IPython's own syntax may be in it
    return bool(compiled.co_flags & inspect.CO_COROUTINE)


def find_frame(text: str, marker: str) -> tuple[Frame | None, str]:
    """The frame of a call in what a pool says was printed, and the text around it.

    Returns:
        No frame when it is not there, or not whole; what is there of it is no text around it.
    """
    before, _, rest = text.partition(marker)
    content, end, after = rest.partition(marker)
    header, newline, chunk = content.partition("\n")
    try:
        value = json.loads(header) if end and newline else None
    except ValueError:
        value = None
    return (Frame(value, chunk), before + after) if isinstance(value, dict) else (None, before)


def _build_call(verb: str, marker: str, **what: Any) -> str:
    """Code that has the guest do something; it binds no name in the session."""
    prefix = "await " if verb == "run_async" else ""
    options = "".join(f", {name}={value!r}" for name, value in what.items())
    return (
        f"__import__('sys').modules.get('{MODULE_NAME}') or {_build_installer()}\n"
        f"{prefix}__import__('sys').modules['{MODULE_NAME}'].{verb}({marker!r}{options})"
    )


@cache
def _build_installer() -> str:
    source = build_session_source(*_AGENT_SOURCES) + "install(get_ipython())\n"
    packed = base64.b64encode(zlib.compress(source.encode(), 9)).decode()
    return (
        "exec(__import__('zlib').decompress(__import__('base64')"
        f".b64decode('{packed}')), {{'__name__': '{MODULE_NAME}', 'get_ipython': get_ipython}})"
    )


def _unpack_report(text: str) -> Any:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), REPORT_BYTES)
        if unpacker.unconsumed_tail:
            raise ProtocolError("the session's report is too large")
        return json.loads(data)
    except (ValueError, zlib.error, RecursionError) as error:
        raise ProtocolError("the session's report cannot be read") from error


def _add_child_output(
    execution: Execution, answer: Execution, around: str, *, is_cut: bool
) -> Execution:
    """A report with what did not go through Python: the output of child processes."""
    notes = [*execution.notes]
    if answer.status == "timed_out":
        execution = replace(execution, status="timed_out")
    if is_cut and (around or answer.stderr):
        notes.append("the pool may have cut the output of child processes")
    return replace(
        execution,
        stdout=execution.stdout + around,
        stderr=execution.stderr + answer.stderr,
        files=tuple(map(_add_media_type, execution.files)),
        notes=tuple(notes),
    )


def _build_unreported_execution(sent: _SentRun, frame: Frame, session_id: str) -> Execution:
    """What the pool says of a run that left no report: most often the session ended under it."""
    lost = bool(frame.header.get("new")) or sent.instance not in {None, frame.instance}
    died = ErrorInfo(
        "SessionDied",
        "the session ended while the code ran, or just after; variables and files are gone",
    )
    return replace(
        sent.answer,
        error=sent.answer.error or died,
        session_id=session_id,
        instance="" if lost else frame.instance,
        status="died" if lost and sent.answer.status != "timed_out" else sent.answer.status,
        state="lost" if lost else "kept",
    )


def _format_error(answer: Execution) -> str:
    error = answer.error or ErrorInfo("Error", "")
    return f"{error.name}: {error.message}"[:500]


async def _split_chunks(content: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """Pieces of one size, and whether each is the last; at least one."""
    buffer = bytearray()
    async for chunk in content:
        buffer += chunk
        while len(buffer) > UPLOAD_CHUNK:
            yield bytes(buffer[:UPLOAD_CHUNK]), False
            del buffer[:UPLOAD_CHUNK]
    yield bytes(buffer), True


def _decode_chunk(chunk: str) -> bytes:
    try:
        return base64.b64decode(chunk, validate=True)
    except ValueError as error:
        raise ProtocolError("the session's answer cannot be read") from error


def _add_media_type(file: FileInfo) -> FileInfo:
    return replace(file, media_type=guess_media_type(file.name))


def _build_not_found_error(name: str) -> SessionFileNotFoundError:
    return SessionFileNotFoundError(f"the session has no file {name!r}")
