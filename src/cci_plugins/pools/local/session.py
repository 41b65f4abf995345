"""One session of the embedded pool: its kernel, its files and its losses.

A session outlives its kernels. When a kernel dies, the pool attaches a new one with the next call.
`loss_reason` then explains the missing state in the notes of the next execution, once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from secrets import token_hex

import anyio

from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.common.file_names import escape_name, guess_media_type
from cci_plugins.common.threads import run_in_thread
from cci_plugins.common.usage import load_usage
from cci_plugins.errors import FileTransferError, SessionLostError
from cci_plugins.in_session.background_output import describe_background
from cci_plugins.in_session.streams import (
    compute_sha256,
    select_files_to_hash,
    select_files_to_report,
)
from cci_plugins.models import (
    ErrorInfo,
    Execution,
    ExecutionStatus,
    FileInfo,
    SessionInfo,
)
from cci_plugins.pools.base import OutputHandler
from cci_plugins.pools.tool_host import ToolHost

from .folder.session_folder import SessionFolder
from .folder.writer import Stat
from .kernel import Kernel, RunOutcome
from .output import Collector
from .packages.session_packages import SessionPackages

_NO_TOOLS_NOTE = (
    "this session can call no host tools any longer, because {}; a new session can call them"
)


RESTARTED = "the application restarted it"


class LocalSession:
    """The pool's record of one session.

    Attributes:
        id: Its identifier.
        kernel: Its kernel. None before the first call and after a death.
        instance: Identifier of the kernel, or of the one that starts with the first call. It
            changes when a kernel ends.
        loss_reason: Why earlier state is lost, until an execution has reported it.
        run_lock: Held by the one run in progress.
        start_lock: Held while a kernel is checked or started.
        is_ended: It was deleted. Calls that still wait for it must not start it again.
        active_calls: Number of calls in progress. An idle session has none.
        packages: Its packages, which each of its kernels is given.
        last_used: Time of the last use, from `time.monotonic`.
    """

    def __init__(
        self,
        session_id: str,
        loss_reason: str | None = None,
        *,
        max_files: int = 50_000,
        packages: SessionPackages,
    ) -> None:
        self.id = session_id
        self.kernel: Kernel | None = None
        self.instance = token_hex(8)
        self.loss_reason = loss_reason
        self.run_lock = anyio.Lock()
        self.start_lock = anyio.Lock()
        self.is_ended = False
        self.active_calls = 0
        self.packages = packages
        self.last_used = time.monotonic()
        self._created = self._accessed = datetime.now(UTC)
        self._max_files = max_files
        self._known_files: dict[str, Stat] = {}

    def touch(self) -> None:
        """Record a use. The cooldown starts again."""
        self.last_used = time.monotonic()
        self._accessed = datetime.now(UTC)

    def attach_kernel(self, kernel: Kernel) -> None:
        """Attach a new kernel."""
        self.kernel = kernel
        self._known_files = {}

    async def replace_kernel(self, kernel: Kernel) -> None:
        """Move to a new kernel with a copy of the files, and end the old one.

        Args:
            kernel: The new kernel. It is closed if the files cannot be copied.

        Raises:
            FileTransferError: A file cannot be copied. The old kernel is still there.
        """
        old = self.kernel
        try:
            if old is not None:
                source, target = old.sandbox.folder, kernel.sandbox.folder
                await run_in_thread(source.copy_to, target, self._max_files)
            known = await run_in_thread(kernel.sandbox.folder.scan, self._max_files)
        except BaseException:
            await kernel.close()
            raise
        self.instance = token_hex(8)
        self.attach_kernel(kernel)
        self._known_files, self.loss_reason = known, None
        if old is not None:
            await old.close(RESTARTED)

    async def end(self, reason: str) -> None:
        """End the session for good, and the code that runs in it.

        A cancelled caller waits until it has ended.

        Args:
            reason: Why, as a clause for the run that this ends.
        """
        self.is_ended = True
        await run_to_end(self._end(reason))

    async def _end(self, reason: str) -> None:
        await self.packages.close()
        kernel, self.kernel = self.kernel, None
        if kernel is not None:
            await kernel.close(reason if self.run_lock.locked() else None)

    async def wait_idle(self) -> None:
        """Wait until no run is in progress."""
        async with self.run_lock:
            return

    async def close_kernel(self) -> None:
        """End the kernel, if there is one."""
        if self.kernel is not None:
            kernel, self.kernel = self.kernel, None
            self.instance = token_hex(8)
            await kernel.close()

    def build_info(self, cooldown: timedelta) -> SessionInfo:
        """Build the public information about this session."""
        return SessionInfo(self.id, self._created, self._accessed, self._accessed + cooldown)

    async def execute(
        self,
        kernel: Kernel,
        code: str,
        timeout: timedelta,
        on_output: OutputHandler | None,
        *,
        tools: ToolHost | None = None,
        env: SessionEnvironment | None = None,
    ) -> Execution:
        """Run code in the kernel. The caller holds `run_lock`.

        Raises:
            KernelExitedError: The code did not start.
        """
        loss_reason = self.loss_reason
        await self._give_packages(kernel)
        started = time.perf_counter()
        outcome, output = await kernel.run(
            code,
            timeout=timeout.total_seconds(),
            on_output=on_output,
            tools=tools,
            environment=None if env is None else env.values,
        )
        self.loss_reason = None
        duration = timedelta(seconds=time.perf_counter() - started)
        is_lost = outcome in {RunOutcome.KILLED, RunOutcome.DIED}
        files, file_notes = (
            ((), []) if is_lost else await self._find_changed_files(kernel.sandbox.folder)
        )
        if files:
            files = await run_in_thread(_add_hashes, kernel.sandbox.folder, files)
        if is_lost and self.kernel is kernel:  # else `restart` has put another in its place
            await self.close_kernel()
        if tools is not None and kernel.tools_failure and not is_lost:
            file_notes = [*file_notes, _NO_TOOLS_NOTE.format(kernel.tools_failure)]
        status, error = _classify_request(outcome, output, kernel) or _classify_outcome(
            outcome, output, kernel, timeout
        )
        return Execution(
            stdout=output.stdout,
            stderr=output.stderr,
            results=output.results,
            error=error,
            files=files,
            session_id=self.id,
            instance="" if is_lost else self.instance,
            status=status,
            state="lost" if is_lost or loss_reason else "kept",
            duration=duration,
            dropped_characters=output.dropped_characters,
            outputs=output.build_outputs(),
            execution_count=output.execution_count,
            usage=None if is_lost else load_usage(kernel.usage),
            notes=(
                *_build_notes(loss_reason, output, kernel.background_characters),
                *file_notes,
            ),
        )

    async def _give_packages(self, kernel: Kernel) -> None:
        if kernel.packages is not None and kernel.packages_version != self.packages.version:
            await self.packages.fill(kernel.packages)
            kernel.packages_version = self.packages.version

    def list_files(self, folder: SessionFolder) -> list[FileInfo]:
        """List the regular files by name."""
        files = folder.scan(self._max_files)
        return [_build_file_info(name, entry) for name, entry in sorted(files.items())]

    async def _find_changed_files(
        self, folder: SessionFolder
    ) -> tuple[tuple[FileInfo, ...], list[str]]:
        """Return the newest files that changed since the last call, and a note on the others."""
        try:
            after = await run_in_thread(folder.scan, self._max_files)
        except FileTransferError as error:  # the code ran, so its result must not get lost
            return (), [f"its files could not be listed: {error}"]
        before, self._known_files = self._known_files, after
        names, notes = select_files_to_report(
            {name: entry.ctime_ns for name, entry in after.items() if before.get(name) != entry}
        )
        return tuple(_build_file_info(name, after[name]) for name in names), notes

    async def upload(
        self, folder: SessionFolder, name: str, content: AsyncIterator[bytes]
    ) -> FileInfo:
        """Write a whole file, or nothing."""
        writer = await run_in_thread(folder.create, name)
        try:
            async for chunk in content:
                await run_in_thread(writer.write, chunk)
            entry = await run_in_thread(writer.commit)
        except BaseException:
            writer.abort()
            raise
        self._known_files[name] = entry
        return _build_file_info(name, entry)


def build_replaced_error(session: LocalSession) -> SessionLostError:
    """Build the error for a call that needs an earlier instance of a session."""
    reason = session.loss_reason or "it was deleted"
    return SessionLostError(
        f"the session was replaced because {reason}",
        hint="run the earlier steps again",
        retryable=True,
    )


def read_stamp(file: int) -> tuple[int, int]:
    """Return the size and time of change, which stay the same until the file is written to."""
    status = os.fstat(file)
    return status.st_size, status.st_mtime_ns


def _build_file_info(name: str, entry: Stat) -> FileInfo:
    modified = datetime.fromtimestamp(entry.mtime_ns / 1e9, UTC)
    return FileInfo(escape_name(name), entry.size, guess_media_type(name), modified)


def _add_hashes(folder: SessionFolder, files: tuple[FileInfo, ...]) -> tuple[FileInfo, ...]:
    """Return the files, with hashes for those that are small enough."""
    chosen = select_files_to_hash([(file.name, file.size) for file in files])
    return tuple(
        replace(file, sha256=_hash_file(folder, file.name)) if file.name in chosen else file
        for file in files
    )


def _hash_file(folder: SessionFolder, name: str) -> str | None:
    try:
        with os.fdopen(folder.open_read(name), "rb") as file:
            return compute_sha256(file)
    except (FileTransferError, OSError):  # deleted or replaced since
        return None


def _build_notes(loss_reason: str | None, output: Collector, background: int) -> list[str]:
    notes = []
    if loss_reason is not None:
        notes.append(
            f"the session was replaced because {loss_reason}; "
            "variables and files of earlier calls are gone"
        )
    if background:
        notes.append(describe_background(background))
    if output.dropped_results:
        notes.append(f"{output.dropped_results} displayed results were too large to keep")
    return [*notes, *output.notes]


def _classify_request(
    outcome: RunOutcome, output: Collector, kernel: Kernel
) -> tuple[ExecutionStatus, ErrorInfo] | None:
    """Return the status and error of a run that the application stopped, otherwise None."""
    if kernel.kill_reason == RESTARTED:
        message = f"the session ended while the code ran: {RESTARTED}; only files are kept"
        return "died", ErrorInfo("SessionDied", message)
    if not kernel.was_interrupted or outcome not in {RunOutcome.INTERRUPTED, RunOutcome.KILLED}:
        return None
    trace = output.error.traceback if output.error else ""
    if outcome is RunOutcome.INTERRUPTED:
        message = "the application interrupted the code; variables and files are kept"
        return "failed", ErrorInfo("KeyboardInterrupt", message, trace)
    message = (
        "the application interrupted the code, which did not stop, so the session was ended; "
        "variables and files are gone"
    )
    return "died", ErrorInfo("KeyboardInterrupt", message, trace)


def _classify_outcome(
    outcome: RunOutcome, output: Collector, kernel: Kernel, timeout: timedelta
) -> tuple[ExecutionStatus, ErrorInfo | None]:
    """Return the status and error of `Execution` for the end of a run."""
    trace = output.error.traceback if output.error else ""
    if outcome is RunOutcome.FINISHED:
        return "failed" if output.error else "succeeded", output.error
    if outcome is RunOutcome.DIED:
        reason = kernel.kill_reason or _describe_exit(kernel.exit_status)
        message = f"the session ended while the code ran: {reason}; variables and files are gone"
        return "died", ErrorInfo("SessionDied", message)
    stopped = (
        "was interrupted; variables and files are kept"
        if outcome is RunOutcome.INTERRUPTED
        else "did not stop when interrupted, so the session was ended; variables and files are gone"
    )
    if output.is_runaway:
        message = f"the code produced too much output and {stopped}"
        return "failed", ErrorInfo("OutputLimitExceeded", message, trace)
    message = f"the code ran longer than {timeout.total_seconds():g} s and {stopped}"
    return "timed_out", ErrorInfo("TimeoutError", message, trace)


def _describe_exit(status: int | None) -> str:
    """Describe why a kernel's process ended by its exit status (128 + n for signal n)."""
    if status is None:
        return "its process ended"
    number = status - 128 if status > 128 else -status  # noqa: PLR2004 - the shell's convention
    if number == signal.SIGKILL:
        return "its process was killed, most likely out of memory"
    if status > 128 or status < 0:  # noqa: PLR2004
        try:
            return f"its process crashed with {signal.Signals(number).name}"
        except ValueError:
            return f"its process crashed with signal {number}"
    return f"its process exited with code {status}"
