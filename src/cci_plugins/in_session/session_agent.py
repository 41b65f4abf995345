"""What runs inside of a session whose pool answers in text only; standard library only.

The client talks to it through code that it has run. It keeps what a run put out and displayed,
and prints it in frames: a random marker of the call, a header, a piece of the report, the marker
again. What is too long for one answer stays here until the client has fetched it.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
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
from pathlib import Path
from secrets import token_hex
from typing import Any

from cci_plugins.in_session.charts import register_data_formatters
from cci_plugins.in_session.streams import StreamBuffer, compute_sha256, select_files_to_hash

MODULE_NAME = "_cci"
FOLDER = Path("/mnt/data")
STREAM_CHARACTERS = 6_000_000
RESULT_CHARACTERS = 32 << 20
MAX_FILES = 20_000
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class CapturingStream(io.TextIOBase):
    """Stands for `sys.stdout` or `sys.stderr` for good; keeps what a run writes.

    It is put in once, since loggers hold on to the stream that they were made with.
    """

    encoding = "utf-8"

    def __init__(self, original: Any) -> None:
        self.original = original
        self.capture_buffer: StreamBuffer | None = None
        self._pid = os.getpid()

    def write(self, text: str) -> int:
        """Keep a piece during a run; pass it on at any other time."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if (
            self.capture_buffer is None or os.getpid() != self._pid
        ):  # a forked child keeps for nobody
            self.original.write(text)
        else:
            self.capture_buffer.add(text)
        return len(text)

    def flush(self) -> None:
        """Flush what is under this stream."""
        self.original.flush()

    def writable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """The descriptor under this stream; what is written there goes to the pool."""
        return int(self.original.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


class RunCapture:
    """What one run put out."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []
        self.error: dict[str, str] | None = None
        self.budget = RESULT_CHARACTERS
        self.dropped = 0
        self.timed_out = False

    def add_result(self, data: dict[str, Any], *, is_main: bool) -> None:
        """Keep something displayed."""
        encoded = {kind: _encode_value(value) for kind, value in data.items() if value is not None}
        size = sum(
            len(value if isinstance(value, str) else repr(value)) for value in encoded.values()
        )
        if size > self.budget:
            self.dropped += 1
        elif encoded:
            self.budget -= size
            self.results.append({"data": encoded, "isMain": is_main})

    def publish(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
        """Stand for `display_pub.publish`."""
        self.add_result(data, is_main=False)

    def add_main_result(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
        """Stand for `displayhook.write_format_data`."""
        self.add_result(data, is_main=True)

    def set_error(self, kind: type[BaseException], value: object, lines: list[str]) -> None:
        """Stand for `shell._showtraceback`."""
        self.error = {
            "name": kind.__name__,
            "message": str(value),
            "traceback": COLOURS.sub("", "\n".join(lines)),
        }

    def build_report(self, timeout: float) -> dict[str, Any]:
        """What the report says of it."""
        status = "succeeded" if self.error is None else "failed"
        if self.timed_out:
            status = "timed_out"
            self.error = {
                "name": "TimeoutError",
                "message": f"the code ran longer than {timeout:g} s and was interrupted; "
                "variables and files are kept",
                "traceback": "" if self.error is None else self.error["traceback"],
            }
        note = f"{self.dropped} displayed results were too large to keep"
        return {
            "results": self.results,
            "error": self.error,
            "status": status,
            "state": "kept",
            "isolation": "",
            "notes": [note] if self.dropped else [],
        }


class SessionAgent:
    """The client's counterpart in the session.

    Attributes:
        instance: Random name of this instance of the session.
    """

    def __init__(self, shell: Any) -> None:
        self.instance = token_hex(8)
        self._shell = shell
        self._is_new = True
        self._reports: dict[str, str | None] = {}
        self._rejected_runs: set[str] = set()
        if FOLDER.is_dir() and os.access(FOLDER, os.W_OK):
            os.chdir(FOLDER)
        self._folder = Path.cwd().resolve()
        self._out, self._err = CapturingStream(sys.stdout), CapturingStream(sys.stderr)
        sys.stdout, sys.stderr = self._out, self._err
        warnings.filterwarnings("ignore", "To exit: use")  # about a prompt that nobody sees
        warnings.filterwarnings("ignore", "Output cache limit")  # IPython's own affair
        with suppress(Exception):
            register_data_formatters(shell)

    def run(
        self,
        marker: str,
        run: str,
        *,
        code: str,
        timeout: float,
        max_chars: int,
        instance: str | None,
    ) -> None:
        """Run code once, unless this run was refused or another instance is asked for."""
        if self._accept_run(marker, run, code, instance):
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
    ) -> None:
        """The same for code that awaits at its top level."""
        if self._accept_run(marker, run, code, instance):
            with self._capture_run(run, timeout) as capture:
                task = asyncio.ensure_future(self._run_cell(code))
                await asyncio.wait({task}, timeout=timeout)
                if not task.done():
                    capture.timed_out = True
                    task.cancel()
                    await asyncio.wait({task})
                self._record_error(capture, None if task.cancelled() else task.result())
            self.emit_report(marker, run, 0, max_chars)

    def resolve_run(self, marker: str, run: str) -> None:
        """Say whether a run came to its end here; if it never began, it never will."""
        flags = {"replaced": True} if run in self._rejected_runs else {}
        began = self._reports.setdefault(run, None) is not None
        self._print_frame(marker, {"began": began, **flags})

    def emit_report(self, marker: str, run: str, at: int, length: int) -> None:
        """Print a piece of a report."""
        report = self._reports.get(run) or ""
        chunk = report[at : at + max(length, 0)]
        self._print_frame(marker, {"at": at, "total": len(report)}, chunk)

    def list_files(self, marker: str, run: str, max_chars: int) -> None:
        """Report every regular file of the folder."""
        files = [_build_file_info(name, stamp) for name, stamp in sorted(self._scan().items())]
        self._store_report(run, files)
        self.emit_report(marker, run, 0, max_chars)

    def write(self, marker: str, name: str, run: str, at: int, data: str, *, is_last: bool) -> None:
        """Append a piece to a file that takes its name with the last piece."""
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
            self._print_frame(marker, {"failed": error.strerror or str(error)})
        else:
            self._print_frame(marker, {})

    def read(self, marker: str, name: str, at: int, length: int) -> None:
        """Print a piece of a file."""
        try:
            with self._resolve_path(name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(at)
                chunk = base64.b64encode(file.read(length)).decode()
        except OSError:
            self._print_frame(marker, {"missing": True})
        else:
            self._print_frame(marker, {"at": at, "total": size}, chunk)

    def remove(self, marker: str, name: str) -> None:
        """Remove a file."""
        try:
            self._resolve_path(name).unlink()
        except OSError:
            self._print_frame(marker, {"missing": True})
        else:
            self._print_frame(marker, {})

    def wipe(self, marker: str) -> None:
        """Forget variables, files and this object: where a pool cannot end a session."""
        for path in self._folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self._shell.reset(new_session=True)
        self._print_frame(marker, {})
        sys.stdout, sys.stderr = self._out.original, self._err.original
        sys.modules.pop(MODULE_NAME, None)

    def _accept_run(self, marker: str, run: str, code: str, instance: str | None) -> bool:
        self._rewrite_history(code)
        if instance not in {None, self.instance}:
            self._reports[run] = None
            self._rejected_runs.add(run)
            self._print_frame(marker, {"replaced": True})
        elif run in self._reports:
            self._print_frame(marker, {"refused": True})
        else:
            return True
        return False

    @contextmanager
    def _capture_run(self, run: str, timeout: float) -> Iterator[RunCapture]:
        """Keep what is put out and displayed, and make the report in the end."""
        capture, shell, before = RunCapture(), self._shell, self._scan()
        self._reports[run] = ""  # it began, so it must not begin again
        self._out.capture_buffer, self._err.capture_buffer = out, err = (
            StreamBuffer(STREAM_CHARACTERS),
            StreamBuffer(STREAM_CHARACTERS),
        )
        shell._showtraceback = capture.set_error  # noqa: SLF001 - IPython has no public place for this
        shell.display_pub.publish = capture.publish
        shell.displayhook.write_format_data = capture.add_main_result
        started = time.perf_counter()
        try:
            yield capture
        finally:
            duration = time.perf_counter() - started
            self._out.capture_buffer = self._err.capture_buffer = None
            del shell._showtraceback, shell.display_pub.publish  # noqa: SLF001
            del shell.displayhook.write_format_data
        after = self._scan()
        changed = [name for name in sorted(after) if before.get(name) != after[name]]
        hashed = select_files_to_hash([(name, after[name][0]) for name in changed])
        report = capture.build_report(timeout)
        report |= {
            "stdout": out.get_text(),
            "stderr": err.get_text(),
            "files": [
                self._describe_changed_file(name, after[name], name in hashed) for name in changed
            ],
            "instance": self.instance,
            "duration": duration,
            "droppedCharacters": out.dropped_characters + err.dropped_characters,
        }
        self._store_report(run, report)

    @contextmanager
    def _enforce_timeout(self, capture: RunCapture, timeout: float) -> Iterator[None]:
        """Interrupt the code after its time, and again while it goes on."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(
            signal, "setitimer"
        ):
            yield  # the pool's own limit is what is left
            return
        armed = True

        def interrupt(*_: Any) -> None:
            if armed:
                capture.timed_out = True
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, timeout, 1.0)
        try:
            yield
        except KeyboardInterrupt:  # it rang just when the code had ended
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

    def _record_error(self, capture: RunCapture, result: Any) -> None:
        """Take an error that IPython showed in another way than by a traceback."""
        error = result and (result.error_before_exec or result.error_in_exec)
        if capture.error is None and error is not None:
            capture.set_error(type(error), error, [])

    def _store_report(self, run: str, report: Any) -> None:
        text = json.dumps(report, default=str).encode()
        for old in self._reports:
            if self._reports[old]:
                self._reports[old] = ""  # one report at a time is kept
        self._reports[run] = base64.b64encode(zlib.compress(text, 6)).decode()

    def _print_frame(self, marker: str, header: dict[str, Any], chunk: str = "") -> None:
        fields = {"instance": self.instance, "new": self._is_new, **header}
        self._is_new = False
        self._out.original.write(f"{marker}{json.dumps(fields)}\n{chunk}{marker}")
        self._out.original.flush()

    def _rewrite_history(self, code: str) -> None:
        """Put the user's code into the history in place of the client's."""
        with suppress(Exception):
            history = self._shell.history_manager
            history.input_hist_raw[-1] = history.input_hist_parsed[-1] = code
            line = history.db_input_cache[-1]
            history.db_input_cache[-1] = (*line[:2], code, code)
            self._shell.user_ns["_i"] = code

    def _describe_changed_file(
        self, name: str, stamp: tuple[int, int], is_hashed: bool
    ) -> dict[str, Any]:
        info = _build_file_info(name, stamp)
        if is_hashed:
            with suppress(OSError), (self._folder / name).open("rb") as file:
                info["sha256"] = compute_sha256(file)
        return info

    def _resolve_path(self, name: str) -> Path:
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder):
            raise OSError(f"{name} leads out of the folder")
        return path

    def _scan(self) -> dict[str, tuple[int, int]]:
        """Size and time of every regular file."""
        found: dict[str, tuple[int, int]] = {}
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                with suppress(OSError):
                    entry = path.lstat()
                    if stat.S_ISREG(entry.st_mode):
                        relative = path.relative_to(self._folder).as_posix()
                        found[relative] = (entry.st_size, entry.st_mtime_ns)
            if len(found) > MAX_FILES:
                break
        return found


def install(shell: Any) -> None:
    """Put a guest into this session."""
    sys.modules[MODULE_NAME] = SessionAgent(shell)  # type: ignore[assignment] # found there by every later call


def _build_file_info(name: str, stamp: tuple[int, int]) -> dict[str, Any]:
    modified = datetime.fromtimestamp(stamp[1] / 1e9, UTC).isoformat()
    return {"name": name, "size": stamp[0], "mediaType": "", "modifiedAt": modified, "sha256": None}


def _encode_value(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
