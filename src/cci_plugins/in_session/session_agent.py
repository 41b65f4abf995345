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

from cci_plugins.in_session.charts import show_data
from cci_plugins.in_session.streams import StreamBuffer, sha256, to_hash

NAME = "_cci"
FOLDER = Path("/mnt/data")
STREAM_CHARACTERS = 6_000_000
RESULT_CHARACTERS = 32 << 20
FILES = 20_000
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Stream(io.TextIOBase):
    """Stands for `sys.stdout` or `sys.stderr` for good; keeps what a run writes.

    It is put in once, since loggers hold on to the stream that they were made with.
    """

    encoding = "utf-8"

    def __init__(self, original: Any) -> None:
        self.original = original
        self.kept: StreamBuffer | None = None
        self._pid = os.getpid()

    def write(self, text: str) -> int:
        """Keep a piece during a run; pass it on at any other time."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self.kept is None or os.getpid() != self._pid:  # a forked child keeps for nobody
            self.original.write(text)
        else:
            self.kept.add(text)
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


class Run:
    """What one run put out."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []
        self.error: dict[str, str] | None = None
        self.room = RESULT_CHARACTERS
        self.dropped = 0
        self.timed_out = False

    def show(self, data: dict[str, Any], *, is_main: bool) -> None:
        """Keep something displayed."""
        told = {kind: _sendable(value) for kind, value in data.items() if value is not None}
        size = sum(len(value if isinstance(value, str) else repr(value)) for value in told.values())
        if size > self.room:
            self.dropped += 1
        elif told:
            self.room -= size
            self.results.append({"data": told, "isMain": is_main})

    def publish(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
        """Stand for `display_pub.publish`."""
        self.show(data, is_main=False)

    def show_main(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
        """Stand for `displayhook.write_format_data`."""
        self.show(data, is_main=True)

    def fail(self, kind: type[BaseException], value: object, lines: list[str]) -> None:
        """Stand for `shell._showtraceback`."""
        self.error = {
            "name": kind.__name__,
            "message": str(value),
            "traceback": COLOURS.sub("", "\n".join(lines)),
        }

    def told(self, timeout: float) -> dict[str, Any]:
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


class Guest:
    """The client's counterpart in the session.

    Attributes:
        instance: Random name of this instance of the session.
    """

    def __init__(self, shell: Any) -> None:
        self.instance = token_hex(8)
        self._shell = shell
        self._new = True
        self._reports: dict[str, str | None] = {}
        self._turned_away: set[str] = set()
        if FOLDER.is_dir() and os.access(FOLDER, os.W_OK):
            os.chdir(FOLDER)
        self._folder = Path.cwd().resolve()
        self._out, self._err = Stream(sys.stdout), Stream(sys.stderr)
        sys.stdout, sys.stderr = self._out, self._err
        warnings.filterwarnings("ignore", "To exit: use")  # about a prompt that nobody sees
        warnings.filterwarnings("ignore", "Output cache limit")  # IPython's own affair
        with suppress(Exception):
            show_data(shell)

    def run(
        self, mark: str, run: str, *, code: str, timeout: float, room: int, instance: str | None
    ) -> None:
        """Run code once, unless this run was refused or another instance is asked for."""
        if self._may_run(mark, run, code, instance):
            with self._kept(run, timeout) as kept, self._alarm(kept, timeout):
                self._end(kept, self._shell.run_cell(code, store_history=False))
            self.tell(mark, run, 0, room)

    async def run_async(
        self, mark: str, run: str, *, code: str, timeout: float, room: int, instance: str | None
    ) -> None:
        """The same for code that awaits at its top level."""
        if self._may_run(mark, run, code, instance):
            with self._kept(run, timeout) as kept:
                task = asyncio.ensure_future(self._cell(code))
                await asyncio.wait({task}, timeout=timeout)
                if not task.done():
                    kept.timed_out = True
                    task.cancel()
                    await asyncio.wait({task})
                self._end(kept, None if task.cancelled() else task.result())
            self.tell(mark, run, 0, room)

    def settle(self, mark: str, run: str) -> None:
        """Say whether a run came to its end here; if it never began, it never will."""
        told = {"replaced": True} if run in self._turned_away else {}
        began = self._reports.setdefault(run, None) is not None
        self._frame(mark, {"began": began, **told})

    def tell(self, mark: str, run: str, at: int, length: int) -> None:
        """Print a piece of a report."""
        report = self._reports.get(run) or ""
        piece = report[at : at + max(length, 0)]
        self._frame(mark, {"at": at, "total": len(report)}, piece)

    def list_files(self, mark: str, run: str, room: int) -> None:
        """Report every regular file of the folder."""
        files = [_file(name, stamp) for name, stamp in sorted(self._scan().items())]
        self._keep(run, files)
        self.tell(mark, run, 0, room)

    def write(self, mark: str, name: str, run: str, at: int, data: str, *, last: bool) -> None:
        """Append a piece to a file that takes its name with the last piece."""
        part = self._folder / f"cci-{run}.part"
        try:
            with part.open("r+b" if at else "wb") as file:
                file.seek(at)
                file.truncate()
                file.write(base64.b64decode(data))
            if last:
                path = self._path(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            self._frame(mark, {"failed": error.strerror or str(error)})
        else:
            self._frame(mark, {})

    def read(self, mark: str, name: str, at: int, length: int) -> None:
        """Print a piece of a file."""
        try:
            with self._path(name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(at)
                piece = base64.b64encode(file.read(length)).decode()
        except OSError:
            self._frame(mark, {"missing": True})
        else:
            self._frame(mark, {"at": at, "total": size}, piece)

    def remove(self, mark: str, name: str) -> None:
        """Remove a file."""
        try:
            self._path(name).unlink()
        except OSError:
            self._frame(mark, {"missing": True})
        else:
            self._frame(mark, {})

    def wipe(self, mark: str) -> None:
        """Forget variables, files and this object: where a pool cannot end a session."""
        for path in self._folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self._shell.reset(new_session=True)
        self._frame(mark, {})
        sys.stdout, sys.stderr = self._out.original, self._err.original
        sys.modules.pop(NAME, None)

    def _may_run(self, mark: str, run: str, code: str, instance: str | None) -> bool:
        self._say_what_runs(code)
        if instance not in {None, self.instance}:
            self._reports[run] = None
            self._turned_away.add(run)
            self._frame(mark, {"replaced": True})
        elif run in self._reports:
            self._frame(mark, {"refused": True})
        else:
            return True
        return False

    @contextmanager
    def _kept(self, run: str, timeout: float) -> Iterator[Run]:
        """Keep what is put out and displayed, and make the report in the end."""
        kept, shell, before = Run(), self._shell, self._scan()
        self._reports[run] = ""  # it began, so it must not begin again
        self._out.kept, self._err.kept = out, err = (
            StreamBuffer(STREAM_CHARACTERS),
            StreamBuffer(STREAM_CHARACTERS),
        )
        shell._showtraceback = kept.fail  # noqa: SLF001 - IPython has no public place for this
        shell.display_pub.publish = kept.publish
        shell.displayhook.write_format_data = kept.show_main
        begun = time.perf_counter()
        try:
            yield kept
        finally:
            duration = time.perf_counter() - begun
            self._out.kept = self._err.kept = None
            del shell._showtraceback, shell.display_pub.publish  # noqa: SLF001
            del shell.displayhook.write_format_data
        after = self._scan()
        changed = [name for name in sorted(after) if before.get(name) != after[name]]
        hashed = to_hash([(name, after[name][0]) for name in changed])
        report = kept.told(timeout)
        report |= {
            "stdout": out.text(),
            "stderr": err.text(),
            "files": [self._changed(name, after[name], name in hashed) for name in changed],
            "instance": self.instance,
            "duration": duration,
            "droppedCharacters": out.dropped + err.dropped,
        }
        self._keep(run, report)

    @contextmanager
    def _alarm(self, kept: Run, timeout: float) -> Iterator[None]:
        """Interrupt the code after its time, and again while it goes on."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(
            signal, "setitimer"
        ):
            yield  # the pool's own limit is what is left
            return
        armed = True

        def ring(*_: Any) -> None:
            if armed:
                kept.timed_out = True
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, timeout, 1.0)
        try:
            yield
        except KeyboardInterrupt:  # it rang just when the code had ended
            if not kept.timed_out:
                raise
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    async def _cell(self, code: str) -> Any:
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

    def _end(self, kept: Run, result: Any) -> None:
        """Take an error that IPython showed in another way than by a traceback."""
        error = result and (result.error_before_exec or result.error_in_exec)
        if kept.error is None and error is not None:
            kept.fail(type(error), error, [])

    def _keep(self, run: str, report: Any) -> None:
        text = json.dumps(report, default=str).encode()
        for old in self._reports:
            if self._reports[old]:
                self._reports[old] = ""  # one report at a time is kept
        self._reports[run] = base64.b64encode(zlib.compress(text, 6)).decode()

    def _frame(self, mark: str, header: dict[str, Any], piece: str = "") -> None:
        told = {"instance": self.instance, "new": self._new, **header}
        self._new = False
        self._out.original.write(f"{mark}{json.dumps(told)}\n{piece}{mark}")
        self._out.original.flush()

    def _say_what_runs(self, code: str) -> None:
        """Put the user's code into the history in place of the client's."""
        with suppress(Exception):
            history = self._shell.history_manager
            history.input_hist_raw[-1] = history.input_hist_parsed[-1] = code
            line = history.db_input_cache[-1]
            history.db_input_cache[-1] = (*line[:2], code, code)
            self._shell.user_ns["_i"] = code

    def _changed(self, name: str, stamp: tuple[int, int], hashed: bool) -> dict[str, Any]:  # noqa: FBT001 - one caller
        told = _file(name, stamp)
        if hashed:
            with suppress(OSError), (self._folder / name).open("rb") as file:
                told["sha256"] = sha256(file)
        return told

    def _path(self, name: str) -> Path:
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
                        told = path.relative_to(self._folder).as_posix()
                        found[told] = (entry.st_size, entry.st_mtime_ns)
            if len(found) > FILES:
                break
        return found


def install(shell: Any) -> None:
    """Put a guest into this session."""
    sys.modules[NAME] = Guest(shell)  # type: ignore[assignment] # found there by every later call


def _file(name: str, stamp: tuple[int, int]) -> dict[str, Any]:
    modified = datetime.fromtimestamp(stamp[1] / 1e9, UTC).isoformat()
    return {"name": name, "size": stamp[0], "mediaType": "", "modifiedAt": modified, "sha256": None}


def _sendable(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
