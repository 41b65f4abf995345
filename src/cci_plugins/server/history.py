"""The history that a server with a console keeps of what it ran: `RunHistory`.

It is in memory only, of this process only, bounded, and without secrets. `recording.py` fills it.
The console's page and its JSON routes read it, on the server's event loop:

    ```text
    history.list_sessions()             sessions that ran code here, the latest used first
    session = history.find_session(id)  None if nothing of it is kept
    session.runs                        its `RecordedRun`s, the oldest first
    run = session.find_run(number)      None if it was dropped
    run.status, run.code, run.entry     see `RecordedRun`
    at, events = run.read(since=0)      output so far. Pass `at` to the next call
    run.execution                       the redacted execution, once it has ended
    await history.wait_for_change(session_id, version, seconds=20)   for a live view
    ```

Everything in it comes from sessions: code, output, names of errors and of files are hostile text.
Results and pictures are hostile data. A reader escapes all of it.

Bounds: `MAX_SESSIONS` sessions, `MAX_RUNS` runs of each, `MAX_BYTES` in all, about `MAX_RUN_BYTES`
of one run. The oldest runs are dropped first. `RecordedSession.dropped` counts them. Of a long
output the end is kept while the code runs, and the beginning when it has ended.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Literal

import anyio

from cci_plugins.common.limits import MIB
from cci_plugins.core.redacted_output import measure_execution
from cci_plugins.in_session.message_bounds import measure_forms
from cci_plugins.models import Execution, OutputEvent

from .answers import sanitize_json

MAX_SESSIONS = 200
MAX_RUNS = 100
MAX_BYTES = 64 * MIB
MAX_RUN_BYTES = 4 * MIB
MAX_CODE_CHARACTERS = 100_000
BATCH_SECONDS = 0.1  # for several chunks of output to share a wake-up
_MAX_CHUNK_CHARACTERS = 8_000

EntryPoint = Literal["rest", "mcp", "execute_code"]
RunStatus = Literal["running", "succeeded", "failed", "timed_out", "died", "stopped", "unknown"]


class RecordedRun:
    """A run that the server started.

    Attributes:
        number: Its number, unique on this server. Later runs have higher ones.
        session_id: The session's identifier in its pool.
        entry: How it came: `rest`, `mcp` (the tools of the platform) or `execute_code`.
        code: Its code, redacted, at most `MAX_CODE_CHARACTERS`. A shell command begins with `!`.
        started_at: When it was sent to the pool.
        ended_at: When it ended, or None.
        error: Why the execution is missing, redacted, or empty.
        execution: Its redacted outcome, cut to `MAX_RUN_BYTES`. None before its end, and if the
            pool failed.

    Args:
        number: Its number.
        session_id: The session.
        entry: How it came.
        code: Its redacted code.
        limit: Longest run, for one whose end this server may never learn. None for others.
    """

    def __init__(
        self,
        number: int,
        session_id: str,
        entry: EntryPoint,
        code: str,
        limit: timedelta | None = None,
    ) -> None:
        self.number, self.session_id, self.entry = number, session_id, entry
        code = sanitize_json(code)
        left_out = len(code) - MAX_CODE_CHARACTERS
        more = f"\n# [{left_out:,} more characters]" if left_out > 0 else ""
        self.code = code[:MAX_CODE_CHARACTERS] + more
        self.started_at = datetime.now(UTC)
        self.ended_at: datetime | None = None
        self.error = ""
        self.execution: Execution | None = None
        self._limit = limit
        self._events: deque[OutputEvent] = deque()
        self._start = self._end = 0  # positions of the kept output
        self._output_bytes = 0

    @property
    def status(self) -> RunStatus:
        """How the run is or ended. `stopped` has no execution, `unknown` was never asked for."""
        if self.execution is not None:
            return self.execution.status
        if self.ended_at is not None:
            return "stopped"
        is_late = self._limit is not None and datetime.now(UTC) - self.started_at > self._limit
        return "unknown" if is_late else "running"

    @property
    def duration(self) -> timedelta:
        """How long the run took, or has taken so far."""
        return (self.ended_at or datetime.now(UTC)) - self.started_at

    @property
    def outputs(self) -> tuple[OutputEvent, ...]:
        """Text and results in order: of the execution, or else what came so far."""
        return tuple(self._events) if self.execution is None else self.execution.outputs

    def read(self, since: int = 0) -> tuple[int, tuple[OutputEvent, ...]]:
        """Return the output behind a position, and the position after it.

        Args:
            since: What the last call returned. A result counts as one character.
        """
        return self._end, tuple(self._list_since(since))

    def _list_since(self, since: int) -> Iterator[OutputEvent]:
        position = self._start
        for event in self._events:
            length = _measure_length(event)
            if position >= since:
                yield event
            elif position + length > since:
                yield replace(event, text=event.text[since - position :])
            position += length

    def _add(self, event: OutputEvent) -> int:
        """Add redacted output. Return by how many bytes the run has grown."""
        before = self._output_bytes
        event = replace(event, text=sanitize_json(event.text))
        last = self._events[-1] if self._events else None
        is_text = event.result is None
        if is_text and not event.text:
            return 0
        if event.result is not None:
            clean = replace(event.result, data=sanitize_json(dict(event.result.data)))
            event = replace(event, result=clean)
        can_join = last is not None and last.stream == event.stream and is_text
        if can_join and last is not None and len(last.text) < _MAX_CHUNK_CHARACTERS:
            self._events[-1] = OutputEvent(event.stream, last.text + event.text)
        else:
            self._events.append(event)
        self._end += _measure_length(event)
        self._output_bytes += _measure_event(event)
        while self._output_bytes > MAX_RUN_BYTES and self._events:
            oldest = self._events.popleft()
            self._start += _measure_length(oldest)
            self._output_bytes -= _measure_event(oldest)
        return self._output_bytes - before

    def _finish(self, execution: Execution | None, error: str) -> None:
        self.ended_at, self.error = datetime.now(UTC), sanitize_json(error)
        if execution is None:
            return
        self.execution = _cut(execution)
        if self._end == 0:  # the pool did not stream it
            for event in self.execution.outputs:
                self._add(event)

    def measure(self) -> int:
        """Return about how many bytes are kept of the run."""
        kept = 0 if self.execution is None else measure_execution(self.execution)
        return len(self.code) + self._output_bytes + kept + 1024


@dataclass(eq=False, slots=True)
class RecordedSession:
    """A session that ran code on this server.

    Attributes:
        identifier: Its identifier in the pool.
        first_used_at: When it first ran code here.
        last_used_at: When it last began or ended a run.
        ended_at: When this server ended it, or None. A later run clears it.
        runs: What is kept of its runs, the oldest first.
        dropped: How many older runs are no longer kept.
        version: Grows with every change.
    """

    identifier: str
    first_used_at: datetime
    last_used_at: datetime
    ended_at: datetime | None = None
    runs: list[RecordedRun] = field(default_factory=list)
    dropped: int = 0
    version: int = 0

    @property
    def is_busy(self) -> bool:
        """Whether code runs."""
        return any(run.status == "running" for run in self.runs)

    def find_run(self, number: int) -> RecordedRun | None:
        """Return a run by its number, or None."""
        return next((run for run in self.runs if run.number == number), None)


class RunHistory:
    """What one server ran."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, RecordedSession] = OrderedDict()  # latest used last
        self._numbers = count(1)
        self._sizes: OrderedDict[RecordedRun, int] = OrderedDict()  # oldest first
        self._bytes = 0
        self._waiters: set[anyio.Event] = set()
        self.version = 0

    def list_sessions(self) -> list[RecordedSession]:
        """Return the sessions that ran code here, the latest used first."""
        return [*reversed(self._sessions.values())]

    def find_session(self, identifier: str) -> RecordedSession | None:
        """Return a session by its identifier, or None."""
        return self._sessions.get(identifier)

    async def wait_for_change(self, identifier: str | None, version: int, *, seconds: float) -> int:
        """Wait until a session, or anything, has changed. Return the version that it has then.

        Args:
            identifier: The session, or None for the whole history.
            version: The version that the caller knows.
            seconds: Longest wait.
        """
        with anyio.move_on_after(seconds):
            while self._get_version(identifier) == version:
                waiter = anyio.Event()
                self._waiters.add(waiter)
                try:
                    await waiter.wait()
                finally:
                    self._waiters.discard(waiter)
            await anyio.sleep(BATCH_SECONDS)
        return self._get_version(identifier)

    def begin(
        self, session_id: str, entry: EntryPoint, code: str, *, limit: timedelta | None = None
    ) -> RecordedRun:
        """Add a run.

        Args:
            session_id: Its session.
            entry: How it came.
            code: Its code, redacted.
            limit: Longest run, if this server may never learn its end.
        """
        run = RecordedRun(next(self._numbers), session_id, entry, code, limit)
        now = run.started_at
        session = self._sessions.setdefault(session_id, RecordedSession(session_id, now, now))
        session.runs.append(run)
        session.ended_at = None
        self._sizes[run] = 0
        self._note(run)
        return run

    def add_output(self, run: RecordedRun, event: OutputEvent) -> None:
        """Add redacted output of a run."""
        if run in self._sizes and run.ended_at is None:
            run._add(event)  # noqa: SLF001 - the history fills its runs
            self._note(run)

    def end(self, run: RecordedRun, execution: Execution | None = None, *, error: str = "") -> None:
        """Note the end of a run.

        Args:
            run: The run.
            execution: Its redacted execution, or None.
            error: Why it is missing, redacted.
        """
        if run.ended_at is None:
            run._finish(execution, error)  # noqa: SLF001 - the history fills its runs
            self._note(run)

    def drop(self, run: RecordedRun) -> None:
        """Forget a run that did not start."""
        session = self._sessions.get(run.session_id)
        if session is not None and run in session.runs:
            session.runs.remove(run)
            self._forget(run)
            if not session.runs and not session.dropped:
                del self._sessions[run.session_id]
            self._notify(session)

    def end_session(self, session_id: str) -> None:
        """Note that this server ended a session. Its runs are kept."""
        session = self._sessions.get(session_id)
        if session is not None:
            session.ended_at = datetime.now(UTC)
            self._notify(session)

    def _note(self, run: RecordedRun) -> None:
        """Count what has grown, drop what is too much, and wake up the readers."""
        if run not in self._sizes:
            return
        session = self._sessions[run.session_id]
        size = run.measure()
        self._bytes += size - self._sizes[run]
        self._sizes[run] = size
        session.last_used_at = datetime.now(UTC)
        self._sessions.move_to_end(session.identifier)
        if len(session.runs) > MAX_RUNS:
            self._drop_old(session.runs[0])
        if len(self._sessions) > MAX_SESSIONS:
            _, oldest = self._sessions.popitem(last=False)
            for one in oldest.runs:
                self._forget(one)
        while self._bytes > MAX_BYTES and len(self._sizes) > 1:
            self._drop_old(next(iter(self._sizes)))
        self._notify(session)

    def _drop_old(self, run: RecordedRun) -> None:
        session = self._sessions[run.session_id]
        session.runs.remove(run)
        session.dropped += 1
        self._forget(run)

    def _forget(self, run: RecordedRun) -> None:
        self._bytes -= self._sizes.pop(run, 0)

    def _notify(self, session: RecordedSession) -> None:
        self.version += 1
        session.version = self.version
        for waiter in self._waiters:
            waiter.set()

    def _get_version(self, identifier: str | None) -> int:
        if identifier is None:
            return self.version
        session = self._sessions.get(identifier)
        return 0 if session is None else session.version


def _measure_length(event: OutputEvent) -> int:
    return len(event.text) if event.result is None else 1


def _measure_event(event: OutputEvent) -> int:
    return len(event.text) if event.result is None else measure_forms(dict(event.result.data))


def _cut(execution: Execution) -> Execution:
    """Return the execution with the part of its output that is kept, and a note if some is not."""
    if measure_execution(execution) <= MAX_RUN_BYTES:
        return execution
    results, size = [], 0
    for result in execution.results:
        size += measure_forms(dict(result.data))
        if size > MAX_RUN_BYTES // 2:
            break
        results.append(result)
    error = execution.error
    if error is not None:
        error = replace(
            error, message=error.message[:_MAX_CHUNK_CHARACTERS], traceback=error.traceback[:MIB]
        )
    note = "the history keeps the beginning of this output only, because it is large"
    return replace(
        execution,
        stdout=execution.stdout[: MIB // 2],
        stderr=execution.stderr[: MIB // 2],
        results=tuple(results),
        error=error,
        tool_calls=execution.tool_calls[:_MAX_CHUNK_CHARACTERS],
        notes=(*execution.notes[:20], note),
        outputs=(),
    )
