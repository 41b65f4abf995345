"""Full results from pools that return text only, through an agent in each session.

The session agent (`in_session/session_agent`) captures what a run prints, displays and changes,
and keeps it as a report. `AgentClient` calls the agent. This module decides what a reply means,
so that code never runs twice and no output is lost unnoticed.

The client gives each run a random name and sends it once. The agent keeps one record for each
name, and never forgets a name:

    unknown -> closed            the run was rejected, or asked about first, so it cannot begin
    unknown -> began -> report   the code runs, then it has ended and its report can be fetched
               began <- report   a newer report replaced it, and only the newest one is kept

The outcomes of one try (`_run`):

1. The reply holds the agent's answer. The report is fetched, unless the run was rejected because
   the pool had replaced the session's instance.
2. No try can have reached the pool, or the pool refused the key. The error is raised as it is.
3. The answer is missing or cut, or the transport failed later on. Or the pool answered that the
   run did not start, or that the session is gone, which proves nothing: a proxy may have changed
   the answer of a run that took place. Or the agent refused the run, because an earlier try began.
   The outcome is unclear, so `_resolve_run` asks the agent, which also closes the record of a run
   that did not begin:
   * The run has a report. It is fetched.
   * The run did not begin, in the instance that the caller expects. It never will, so the code is
     sent again under a new name.
   * The pool's reply or a new agent proves that the session ended. That is the run's result.
   * The pool refused the run and the question (429, 503). The error states that the code may have
     run. A full pool does not refuse a session that it has, so a rate limit or a proxy answered
     instead, perhaps after it had passed the run on.
   * Anything else raises an error which states that the code may have run.

A full pool refuses a new session. So a session that has never answered is asked for its instance
before code is sent to it. If that is refused, nothing was started for certain, and the error is
`retryable`.

Invariants:

* Code is sent again under the same name, which the agent accepts once. It gets another name only
  when the agent has closed the earlier one in the same instance.
* Once the code ran, a failure to get its report states that it ran, and is not `retryable`.
* All calls but `run` may be repeated. `write` carries its offset, and its file gets its name last.
* Everything that a session sends is untrusted, and bounded in size and time.
"""

from __future__ import annotations

import ast
import base64
import inspect
import re
import warnings
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from secrets import token_hex

from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.common.file_names import guess_media_type, validate_name
from cci_plugins.common.limits import Limits
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
from cci_plugins.in_session.marked_call import Answer
from cci_plugins.mcp_client.executions import check_file, check_files, load_execution, load_file
from cci_plugins.mcp_client.failures import MAY_HAVE_RUN, shorten
from cci_plugins.models import ErrorInfo, Execution, FileInfo
from cci_plugins.pools.base import build_changed_error

from .agent_client import (
    SAFE_CHARS,
    AgentClient,
    Sender,
    build_agent_call,
    check_chunk,
    format_error,
    get_instance,
    get_total,
)
from .cci_server import build_refused_error
from .retry import RetryPolicy

UPLOAD_CHUNK = 512 * 1024  # bytes
MAX_TRIES = 5
_AWAITS = re.compile(r"\b(await|async)\b")


class TextSessions:
    """Runs code and moves files through an agent in each session.

    Args:
        send: Runs code in a session within a time. It raises as `SessionPool.execute` does and
            never tries twice.
        retry: Repeats what did not start, and calls that may be repeated.
        limits: `pieces_bytes` bounds a transfer, `execution_timeout` the wait for a busy session.
        margin: Added to a run's own limit to wait for the pool's answer.
    """

    def __init__(
        self, send: Sender, *, retry: RetryPolicy, limits: Limits, margin: timedelta
    ) -> None:
        self._agent = AgentClient(send, retry=retry, limits=limits, margin=margin)
        self._limits = limits
        self._margin = margin

    async def execute(
        self,
        session_id: str,
        code: str,
        *,
        timeout: timedelta,
        instance: str | None,
        env: SessionEnvironment | None = None,
    ) -> Execution:
        """Run code once, as `SessionPool.execute` does."""
        for _ in range(MAX_TRIES):
            execution = await self._run(session_id, code, timeout, instance, env)
            if execution is not None:
                return execution
        raise PoolUnavailableError(
            f"the pool lost the request {MAX_TRIES} times, so the code did not run",
            hint="run the code again later",
        )

    def forget(self, session_id: str) -> None:
        """Forget the instance of a session that was ended."""
        self._agent.forget(session_id)

    async def find_instance(self, session_id: str) -> str:
        """Ask a session for its instance, without running code of the user's."""
        self._agent.forget(session_id)  # it may have been replaced since its last answer
        return await self._agent.find_instance(session_id)

    async def upload(self, session_id: str, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        """Write a file in chunks. It gets its name with the last one."""
        name, run, at = validate_name(name), token_hex(8), 0
        async for chunk, is_last in _split_chunks(content):
            if at + len(chunk) > self._limits.pieces_bytes:
                raise _build_too_large_error(name, at + len(chunk), self._limits.pieces_bytes)
            data = base64.b64encode(chunk).decode()
            answer = await self._agent.call(
                session_id, "write", name=name, run=run, at=at, data=data, is_last=is_last
            )
            if "failed" in answer.fields:
                reason = shorten(str(answer.fields["failed"]))
                raise FileTransferError(f"cannot write {name!r}: {reason}")
            at += len(chunk)
        return FileInfo(name, at, guess_media_type(name))

    async def download(self, session_id: str, name: str) -> AsyncGenerator[bytes]:
        """Read a file in chunks."""
        name, at, total = validate_name(name), 0, SAFE_CHARS // 2
        stamp: object = None
        while at < total:
            answer = await self._agent.fetch_chunk(
                session_id, "read", at, total, per_byte=4 / 3, name=name
            )
            if "missing" in answer.fields:
                raise _build_not_found_error(name)
            data, total = _decode_chunk(answer.text), get_total(answer)
            stamps = answer.fields.get("stamps")
            if not isinstance(stamps, list) or any(one != (stamp or stamps[0]) for one in stamps):
                raise build_changed_error(name)
            stamp = stamps[0]
            if not data and at < total:
                raise build_changed_error(name)
            if total > self._limits.pieces_bytes:
                raise _build_too_large_error(name, total, self._limits.pieces_bytes)
            check_chunk(len(data), total - at)
            at += len(data)
            yield data

    async def list_files(self, session_id: str) -> list[FileInfo]:
        """Return the session's files by name."""
        run = token_hex(8)
        answer = await self._agent.call(
            session_id, "list_files", run=run, max_chars=self._agent.max_chars
        )
        report = await self._agent.fetch_report(session_id, run, answer)
        try:
            return [_add_media_type(check_file(load_file(file))) for file in report]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProtocolError("the session sent a malformed list of files") from error

    async def delete_file(self, session_id: str, name: str) -> None:
        """Remove a file."""
        answer = await self._agent.call(session_id, "remove", name=validate_name(name))
        if "missing" in answer.fields:
            raise _build_not_found_error(name)

    async def wipe(self, session_id: str) -> None:
        """Remove a session's variables and files, where the pool cannot end it."""
        await self._agent.call(session_id, "wipe")

    async def _run(
        self,
        session_id: str,
        code: str,
        timeout: timedelta,
        instance: str | None,
        env: SessionEnvironment | None,
    ) -> Execution | None:
        """Run code once. Return None if it did not begin and never will, so that it may be sent."""
        known = instance or await self._agent.find_instance(session_id)
        run = token_hex(8)
        call = build_agent_call(
            "run_async" if needs_await(code) else "run",
            run=run,
            code=code,
            timeout=timeout.total_seconds(),
            max_chars=self._agent.max_chars,
            instance=instance,
            env=None if env is None else dict(env.values),
        )
        sent = _SentRun(run, known, timeout + self._margin)
        try:
            sent.reply = await self._agent.send_named(session_id, call, sent.limit, sent.faults)
        except CodeInterpreterError as error:
            if isinstance(error, (AuthenticationError, ConfigurationError)) or not sent.faults:
                raise
            sent.fault = error
        answer = call.parse_answer(sent.reply.stdout)
        is_cut = answer is None
        if answer is not None and "refused" in answer.fields:
            sent.refused_by, answer = get_instance(answer), None
        elif answer is not None and not {"replaced", "total"} & answer.fields.keys():
            answer = None  # it does not report the run
        if answer is None:
            answer = await self._resolve_run(session_id, sent)
        if answer is None:
            return None
        if "replaced" in answer.fields:
            raise SessionLostError(
                "the pool replaced the session", hint="run the earlier steps again", retryable=True
            )
        if "total" not in answer.fields:
            return _build_unreported_execution(sent, answer, session_id)
        try:
            report = await self._agent.fetch_report(session_id, run, answer, sent.limit)
            execution = check_files(load_execution(report, session_id))
        except CodeInterpreterError as error:  # even if the error is `retryable`, the code ran
            kind = ProtocolError if isinstance(error, ProtocolError) else PoolError
            raise kind(f"the code ran, but its output is lost: {error}") from error
        around = call.remove_answer(sent.reply.stdout)
        return _add_child_output(execution, sent.reply, around, is_cut=is_cut)

    async def _resolve_run(self, session_id: str, sent: _SentRun) -> Answer | None:
        """Find out the outcome of a run whose answer is missing, cut or contradicts an earlier one.

        Returns:
            The first chunk of its report. An answer without one if the session ended during the
            run. None if it did not begin and never will.

        Raises:
            CodeInterpreterError: The outcome stays unclear, so the code may have run. Or the pool
                refused the run, and the session has not seen it.
        """
        # after a refusal one question is enough, because a full pool refuses it too
        is_repeated = not isinstance(sent.fault, (PoolUnavailableError, SessionLostError))
        try:
            answer = await self._agent.call(
                session_id, "resolve_run", limit=sent.limit, is_repeated=is_repeated, run=sent.run
            )
            if answer.fields.get("began") is True:
                report = await self._agent.call(
                    session_id, "emit_report", limit=sent.limit, run=sent.run, at=0, length=0
                )
                if get_total(report):
                    return report
        except CodeInterpreterError as error:
            logger.info("the outcome of a run stays unclear: %s", error)
            raise sent.build_error(has_begun=False) from None
        if "replaced" in answer.fields:
            return answer
        has_begun = answer.fields.get("began") is True
        is_new = answer.fields.get("new") is True  # so the session that got the run has ended
        ended = sent.fault is None and (is_new or sent.reply.error is not None)
        if not has_begun and get_instance(answer) in {sent.instance, sent.refused_by}:
            if ended:
                raise PoolError(f"the pool could not run the code: {format_error(sent.reply)}")
            if isinstance(sent.fault, PoolUnavailableError):
                raise sent.fault
            return None
        if ended:
            return answer
        raise sent.build_error(has_begun=has_begun)


@dataclass(slots=True)
class _SentRun:
    """A run that was sent, and what the pool replied.

    Attributes:
        run: Its name.
        instance: The instance that the caller expects, or the one that answered last.
        limit: How long to wait for it.
        reply: The pool's reply.
        fault: The error instead of a reply.
        faults: The errors of all tries that may have reached the pool.
        refused_by: The instance whose agent had met the name before.
    """

    run: str
    instance: str
    limit: timedelta
    reply: Execution = field(default_factory=Execution)
    fault: CodeInterpreterError | None = None
    faults: list[Exception] = field(default_factory=list)
    refused_by: str | None = None

    def build_error(self, *, has_begun: bool) -> CodeInterpreterError:
        """Return the error for an outcome that stays unclear.

        Args:
            has_begun: Whether the session knows that the code began.
        """
        fault = self.fault
        if isinstance(fault, PoolUnavailableError) and not has_begun:
            return build_refused_error(fault)
        if fault is None:
            return ProtocolError(f"the pool's answer was cut; {MAY_HAVE_RUN}")
        if "may have run" in str(fault):
            return fault
        kind = SessionLostError if isinstance(fault, SessionLostError) else PoolError
        return kind(f"{fault}; {MAY_HAVE_RUN}", hint=fault.hint)


def needs_await(code: str) -> bool:
    """Return whether code awaits at its top level. The agent runs such code on the event loop."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = compile(code, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return _AWAITS.search(code) is not None  # it may contain IPython's own syntax
    return bool(compiled.co_flags & inspect.CO_COROUTINE)


def _add_child_output(
    execution: Execution, reply: Execution, around: str, *, is_cut: bool
) -> Execution:
    """Add the output of child processes, which bypasses Python, to a report."""
    notes = [*execution.notes]
    if reply.status == "timed_out":
        execution = replace(execution, status="timed_out")
    if is_cut and (around or reply.stderr):
        notes.append("the pool may have cut the output of child processes")
    return replace(
        execution,
        stdout=execution.stdout + around,
        stderr=execution.stderr + reply.stderr,
        files=tuple(map(_add_media_type, execution.files)),
        notes=tuple(notes),
    )


def _build_unreported_execution(sent: _SentRun, answer: Answer, session_id: str) -> Execution:
    """Build the result of a run without a report, mostly because the session ended during it."""
    instance = get_instance(answer)
    lost = bool(answer.fields.get("new")) or sent.instance not in {None, instance}
    died = ErrorInfo(
        "SessionDied",
        "the session ended while the code ran, or just after; variables and files are gone",
    )
    return replace(
        sent.reply,
        error=sent.reply.error or died,
        session_id=session_id,
        instance="" if lost else instance,
        status="died" if lost and sent.reply.status != "timed_out" else sent.reply.status,
        state="lost" if lost else "kept",
    )


async def _split_chunks(content: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """Yield chunks of one size, at least one, each with whether it is the last."""
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
        raise ProtocolError("the session sent a malformed chunk of a file") from error


def _add_media_type(file: FileInfo) -> FileInfo:
    return replace(file, media_type=guess_media_type(file.name))


def _build_too_large_error(name: str, size: int, limit: int) -> FileTooLargeError:
    return FileTooLargeError(f"{name!r} is larger than {limit:,} bytes", size=size, limit=limit)


def _build_not_found_error(name: str) -> SessionFileNotFoundError:
    return SessionFileNotFoundError(f"the session has no file {name!r}")
