"""Session agent: the program that runs code where a pool returns text only.

It keeps what a run prints and displays as a report. A report may be longer than what the pool
returns at once, so the client fetches it in chunks. `pools/azure/text_sessions` is the client and
explains the protocol.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import stat
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from secrets import token_hex
from types import FrameType
from typing import Any

from cci_plugins.in_session.background_output import (
    BackgroundOutput,
    CellWatch,
    describe_background,
)
from cci_plugins.in_session.charts import register_data_formatters
from cci_plugins.in_session.environment import GivenEnvironment
from cci_plugins.in_session.interrupts import (
    contain_exits,
    interrupt_children_after,
    is_user_frame,
)
from cci_plugins.in_session.nested_loops import allow_in_anyio, allow_nested_loops
from cci_plugins.in_session.plain_python import set_up_shell
from cci_plugins.in_session.program_support import (
    find_session_folder,
    is_own_folder,
    write_answer,
)
from cci_plugins.in_session.run_capture import CapturingStream, RunCapture
from cci_plugins.in_session.streams import (
    compute_sha256,
    select_files_to_hash,
    select_files_to_report,
)
from cci_plugins.in_session.terminal_streams import adopt_streams, restore_streams
from cci_plugins.in_session.usage import UsageMeter
from cci_plugins.in_session.wide_tables import call_when_imported, show_wide_tables

MODULE_NAME = "_cci"
CHILD_SECONDS = 0.2  # from an interrupt until child processes are interrupted
MAX_FILES = 50_000  # as SandboxLimits.file_count


class SessionAgent:
    """Runs code, keeps reports, and moves files in chunks.

    Each public method answers one call, so it takes the call's marker first.

    Attributes:
        instance: Random name of this instance of the session.
    """

    def __init__(self, shell: Any) -> None:
        self.instance = token_hex(8)
        self._shell = shell
        self._is_new = True
        # By run. None: it must never begin. "": it began, and has no report now.
        self._reports: dict[str, str | None] = {}
        self._rejected_runs: set[str] = set()
        self._run_count = 0
        self._folder = find_session_folder(shell)
        is_own = is_own_folder(shell, self._folder)
        self._folder_identity = _identify_folder(self._folder) if is_own else None
        os.chdir(self._folder)
        os.environ.setdefault("SESSION_FOLDER", str(self._folder))
        self._background = BackgroundOutput()
        self._environment = GivenEnvironment()
        self.cells = CellWatch()
        self._out = CapturingStream(sys.stdout, "stdout", self._background, self.cells)
        self._err = CapturingStream(sys.stderr, "stderr", self._background, self.cells)
        self._loop = find_running_loop()
        shell.cci_streams = (self._out, self._err)
        warnings.filterwarnings("ignore", "To exit: use")  # about a prompt that nobody sees
        warnings.filterwarnings("ignore", "Output cache limit")  # about IPython's own cache
        self.restore_streams()
        with suppress(Exception):
            self.cells.install(shell)
        with suppress(Exception):
            register_data_formatters(shell)
        with suppress(Exception):  # another kernel than IPython's may lack what it needs
            show_wide_tables()
            allow_nested_loops(self._find_loop)
            call_when_imported("anyio", partial(allow_in_anyio, self._find_loop))
            if self._loop is not None:
                contain_exits(self._loop)
            set_up_shell(shell, str(self._folder))

    def restore_streams(self) -> None:
        """Put the session's streams back, which the code of an earlier run may have replaced."""
        parent = None
        with suppress(Exception):
            parent = self._shell.get_parent()
        for stream in (self._out.original, self._err.original):
            if parent is not None and hasattr(stream, "set_parent"):
                stream.set_parent(parent)
        restore_streams(self._out, self._err)

    def run(
        self,
        marker: str,
        run: str,
        *,
        code: str,
        timeout: float,
        max_chars: int,
        instance: str | None,
        env: dict[str, str] | None = None,
    ) -> None:
        """Run code once, unless this run was refused or another instance is expected."""
        if self._accept_run(marker, run, code, instance):
            self._set_environment(env)
            with (
                self._capture_run(run, timeout) as capture,
                self._enforce_timeout(capture, timeout),
            ):
                self._record_error(capture, self._shell.run_cell(code, store_history=False))
            self.emit_report(marker, run, 0, max_chars)

    async def run_async(
        self,
        marker: str,
        run: str,
        *,
        code: str,
        timeout: float,
        max_chars: int,
        instance: str | None,
        env: dict[str, str] | None = None,
    ) -> None:
        """Run code that awaits at its top level, otherwise as `run`."""
        if self._accept_run(marker, run, code, instance):
            self._set_environment(env)
            with self._capture_run(run, timeout) as capture:
                task = asyncio.ensure_future(self._run_cell(code))
                with self._enforce_timeout(capture, timeout, task):
                    await asyncio.wait({task}, timeout=timeout)
                    while not task.done():
                        capture.timed_out = True
                        task.cancel()
                        await asyncio.wait({task}, timeout=1.0)
                self._record_error(capture, None if task.cancelled() else task.result())
            self.emit_report(marker, run, 0, max_chars)

    def _set_environment(self, env: dict[str, str] | None) -> None:
        if env is not None:
            self._environment.apply(env)

    def resolve_run(self, marker: str, run: str) -> None:
        """Report whether a run began. One that did not begin never will."""
        flags = {"replaced": True} if run in self._rejected_runs else {}
        began = self._reports.setdefault(run, None) is not None
        self._answer(marker, {"began": began, **flags})

    def emit_report(self, marker: str, run: str, at: int, length: int) -> None:
        """Send a chunk of a report."""
        report = self._reports.get(run) or ""
        chunk = report[at : at + max(length, 0)]
        self._answer(marker, {"at": at, "total": len(report)}, chunk)

    def list_files(self, marker: str, run: str, max_chars: int) -> None:
        """Report every regular file of the folder."""
        files = [_build_file_info(name, stamp) for name, stamp in sorted(self._scan().items())]
        self._store_report(run, files)
        self.emit_report(marker, run, 0, max_chars)

    def write(self, marker: str, name: str, run: str, at: int, data: str, *, is_last: bool) -> None:
        """Write a chunk of a file, which gets its name with the last chunk."""
        part = self._folder / f"cci-{run}.part"
        try:
            with part.open("r+b" if at else "wb") as file:
                file.seek(at)
                file.truncate()
                file.write(base64.b64decode(data))
            if is_last:
                path = self._resolve_path(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            self._answer(marker, {"failed": error.strerror or str(error)})
        else:
            self._answer(marker, {})

    def read(self, marker: str, name: str, at: int, length: int) -> None:
        """Send a chunk of a file."""
        try:
            with self._resolve_path(name).open("rb") as file:
                before = os.fstat(file.fileno())
                file.seek(at)
                chunk = base64.b64encode(file.read(length)).decode()
                after = os.fstat(file.fileno())
        except OSError:
            self._answer(marker, {"missing": True})
        else:
            stamps = [before.st_mtime_ns, after.st_mtime_ns]
            self._answer(marker, {"at": at, "total": before.st_size, "stamps": stamps}, chunk)

    def remove(self, marker: str, name: str) -> None:
        """Remove a file."""
        try:
            self._resolve_path(name).unlink()
        except OSError:
            self._answer(marker, {"missing": True})
        else:
            self._answer(marker, {})

    def wipe(self, marker: str) -> None:
        """Remove variables, files and this agent, where a pool cannot end a session."""
        self._empty_folder()
        self._environment.apply({})
        self._shell.reset(new_session=True)
        self._answer(marker, {})
        adopt_streams(self._out.original, self._err.original)
        self._shell.cci_streams = (self._out.original, self._err.original)
        sys.modules.pop(MODULE_NAME, None)

    def _empty_folder(self) -> None:
        """Remove the files, unless something else lies where the session's folder was."""
        identity = _identify_folder(self._folder)
        if identity is None or identity != self._folder_identity:
            return
        mounts = _list_mounts()
        for path in self._folder.iterdir():
            with suppress(OSError):
                _remove_path(path, mounts)

    def _accept_run(self, marker: str, run: str, code: str, instance: str | None) -> bool:
        self._rewrite_history(code)
        if instance not in {None, self.instance}:
            self._reports[run] = None
            self._rejected_runs.add(run)
            self._answer(marker, {"replaced": True})
        elif run in self._reports:
            self._answer(marker, {"refused": True})
        else:
            return True
        return False

    @contextmanager
    def _capture_run(self, run: str, timeout: float) -> Iterator[RunCapture]:
        """Capture output and displays, and store the report at the end."""
        capture, before = RunCapture(self._shell), self._scan()
        self._reports[run] = ""  # it began, so it must not begin again
        self._run_count += 1
        self._out.capture_buffer, self._err.capture_buffer = capture.stdout, capture.stderr
        background = self._background.take()
        for name, text in background.items():
            getattr(capture, name).add(text)
        meter, started = UsageMeter(), time.perf_counter()
        try:
            with capture.replace_displays():
                yield capture
        finally:
            duration, usage = time.perf_counter() - started, meter.read()
            self.restore_streams()
            self._out.capture_buffer = self._err.capture_buffer = None
        after = self._scan()
        changed, notes = select_files_to_report(
            {name: stamp[2] for name, stamp in after.items() if before.get(name) != stamp}
        )
        hashed = select_files_to_hash([(name, after[name][0]) for name in changed])
        report = capture.build_report(timeout)
        report["notes"] += notes
        report |= {
            "files": [
                self._describe_changed_file(name, after[name], is_hashed=name in hashed)
                for name in changed
            ],
            "instance": self.instance,
            "duration": duration,
            "executionCount": self._run_count,
            "usage": usage,
        }
        if background:
            report["notes"].append(describe_background(sum(map(len, background.values()))))
        self._store_report(run, report)

    @contextmanager
    def _enforce_timeout(
        self, capture: RunCapture, timeout: float, task: asyncio.Future[Any] | None = None
    ) -> Iterator[None]:
        """Interrupt the code after its time, and every second while it continues.

        Args:
            capture: The run.
            timeout: Its time in seconds.
            task: The task of code that awaits. Its waiting is cancelled, only its own code raises.
        """
        if threading.current_thread() is not threading.main_thread() or not hasattr(
            signal, "setitimer"
        ):
            yield  # only the pool's own limit applies
            return
        armed = True

        def interrupt(_: int, frame: FrameType | None) -> None:
            if armed and (task is None or is_user_frame(frame, self._shell.user_ns)):
                capture.timed_out = True
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, timeout, 1.0)
        try:
            with interrupt_children_after(timeout + CHILD_SECONDS):
                yield
        except KeyboardInterrupt:  # the timer fired just after the code had ended
            if not capture.timed_out:
                raise
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    async def _run_cell(self, code: str) -> Any:
        shell = self._shell
        fault = None
        try:
            cell = shell.transform_cell(code)
        except Exception:  # noqa: BLE001 - IPython shows it in its own way
            cell, fault = code, sys.exc_info()
        try:
            return await shell.run_cell_async(
                code, store_history=False, transformed_cell=cell, preprocessing_exc_tuple=fault
            )
        finally:
            shell.events.trigger("post_execute")

    def _find_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop on which the kernel runs its cells."""
        return self._loop

    def _record_error(self, capture: RunCapture, result: Any) -> None:
        """Record an error that IPython showed in another way than by a traceback."""
        error = result and (result.error_before_exec or result.error_in_exec)
        if capture.error is None and error is not None:
            capture.set_error(type(error), error, [])

    def _store_report(self, run: str, report: Any) -> None:
        text = json.dumps(report, default=str).encode()
        for old in self._reports:
            if self._reports[old]:
                self._reports[old] = ""  # only the latest report is kept
        self._reports[run] = base64.b64encode(zlib.compress(text, 6)).decode()

    def _answer(self, marker: str, fields: dict[str, Any], chunk: str = "") -> None:
        fields = {"instance": self.instance, "new": self._is_new, **fields}
        self._is_new = False
        # a pool may cut the middle of an answer, so it names its length
        fields["length"] = len(chunk)
        write_answer(marker, fields, chunk, stream=self._out.original)

    def hide_call(self, marker: str) -> None:
        """Remove the text of the present call from the history, where the session keeps it."""
        with suppress(Exception):
            if marker in self._shell.history_manager.input_hist_raw[-1]:
                self._rewrite_history("")

    def _rewrite_history(self, code: str) -> None:
        """Replace the client's code in the history by the user's."""
        with suppress(Exception):
            history = self._shell.history_manager
            history.input_hist_raw[-1] = history.input_hist_parsed[-1] = code
            line = history.db_input_cache[-1]
            history.db_input_cache[-1] = (*line[:2], code, code)
            self._shell.user_ns["_i"] = code

    def _describe_changed_file(
        self, name: str, stamp: tuple[int, int, int], *, is_hashed: bool
    ) -> dict[str, Any]:
        info = _build_file_info(name, stamp)
        if is_hashed:
            with suppress(OSError), (self._folder / name).open("rb") as file:
                info["sha256"] = compute_sha256(file)
        return info

    def _resolve_path(self, name: str) -> Path:
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder):
            raise OSError(f"the name {name!r} leads out of the session's folder")
        return path

    def _scan(self) -> dict[str, tuple[int, int, int]]:
        """Return size in bytes and times of change in nanoseconds of every regular file."""
        found: dict[str, tuple[int, int, int]] = {}
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                with suppress(OSError):
                    entry = path.lstat()
                    if stat.S_ISREG(entry.st_mode):
                        relative = path.relative_to(self._folder).as_posix()
                        found[relative] = (entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns)
            if len(found) > MAX_FILES:
                break
        return found


@cache
def get_agent(shell: Any) -> SessionAgent:
    """Return the session's agent, and create it for the first call."""
    return SessionAgent(shell)


def main(shell: Any, marker: str, job: dict[str, Any]) -> Any:
    """Answer one call.

    Args:
        shell: IPython's shell.
        marker: The marker of the answer.
        job: `verb`, the name of a method, and its arguments.

    Returns:
        An awaitable for `run_async`, otherwise None.
    """
    agent = get_agent(shell)
    agent.cells.claim()
    agent.restore_streams()
    verb = job.pop("verb")
    if verb not in {"run", "run_async"}:  # a run puts the user's code there
        agent.hide_call(marker)
    return getattr(agent, verb)(marker, **job)


def find_running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running event loop, or None."""
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None


def _identify_folder(path: Path) -> tuple[int, int] | None:
    """Return the identity of a folder, or None for a link and anything else."""
    try:
        entry = path.lstat()
    except OSError:
        return None
    return (entry.st_dev, entry.st_ino) if stat.S_ISDIR(entry.st_mode) else None


def _list_mounts() -> list[Path]:
    """Return where other file systems and folders are mounted, on Linux."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return []
    # such as "36 35 98:0 /root /mnt/data/share rw ...", with octal escapes such as \040
    paths = [line.split(b" ")[4] for line in lines]
    return [Path(os.fsdecode(path.decode("unicode_escape").encode("latin-1"))) for path in paths]


def _remove_path(path: Path, mounts: list[Path]) -> None:
    """Remove a file or a folder. What is mounted in it is not this session's, so it stays."""
    if path in mounts:
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    elif any(mount.is_relative_to(path) for mount in mounts):
        for inner in path.iterdir():
            with suppress(OSError):
                _remove_path(inner, mounts)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _build_file_info(name: str, stamp: tuple[int, int, int]) -> dict[str, Any]:
    modified = datetime.fromtimestamp(stamp[1] / 1e9, UTC).isoformat()
    return {"name": name, "size": stamp[0], "mediaType": "", "modifiedAt": modified, "sha256": None}
