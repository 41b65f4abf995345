"""File transfer program: moves a file of the session by URL, and leaves no trace of the URL.

The URL is a secret. So a child process moves the file, and only it can open the job
(`transfer_relay`). Where a session cannot have child processes, the job is part of the call's code.
Then the call is removed from everything in which IPython keeps code, and the job from memory, but
copies of it may stay in memory that was freed.
"""

from __future__ import annotations

import gc
import linecache
import sys
import time
import urllib.parse
from contextlib import suppress
from types import FrameType
from typing import Any

from cci_plugins.in_session.program_support import (
    find_session_folder,
    write_answer,
    write_progress,
)
from cci_plugins.in_session.transfer import transfer
from cci_plugins.in_session.transfer_relay import open_child, relay_job

PROGRESS_INTERVAL = 0.25  # seconds, since each report waits until it is sent


def main(shell: Any, marker: str, job: dict[str, Any]) -> None:
    """Answer one call with the report of a transfer.

    Args:
        shell: IPython's shell.
        marker: The marker of the answer.
        job: `open` and the child's source, `move` and a sealed job, or a job of `transfer` itself.
            Jobs have `name`, below the session's folder, in place of `path`.
    """
    reported_at = time.monotonic()

    def report_progress(done: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= PROGRESS_INTERVAL:
            reported_at = time.monotonic()
            write_progress(marker, done)

    with suppress(Exception):
        erase_call(shell, marker)
    try:
        report = run_job(shell, job, report_progress)
    except PermissionError:
        report = {"failed": "its name leads out of the session's folder", "kind": "disk"}
    except BaseException as error:  # noqa: BLE001 - a traceback of an interrupt would show the URL
        report = {"failed": f"it was stopped ({type(error).__name__})", "kind": "broken"}
    job.clear()
    # It caches the parts of every URL.
    urllib.parse.clear_cache()  # type: ignore[attr-defined]  # typeshed leaves it out
    gc.collect()  # frames and the exceptions raised in them refer to each other
    write_answer(marker, report)


def run_job(shell: Any, job: dict[str, Any], report_progress: Any) -> dict[str, Any]:
    """Run one job and return its report."""
    if job["verb"] == "open":
        return open_child(shell, job["source"])
    if job["verb"] == "move":
        return relay_job(shell, job, find_session_folder(shell), report_progress)
    job["path"] = _resolve_path(shell, job.pop("name"))
    job["proxy_socket"] = getattr(shell, "cci_proxy_socket", None)
    return transfer(job, report_progress)


def erase_call(shell: Any, marker: str) -> None:
    """Remove the code that contains the marker from the history and from tracebacks' sources."""
    for name, entry in list(linecache.cache.items()):
        if len(entry) > 1 and any(marker in line for line in entry[2]):
            del linecache.cache[name]
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the only way to IPython's own call
    while frame is not None:
        for value in list(frame.f_locals.values()):
            if type(value).__name__ == "ExecutionInfo" and marker in str(value.raw_cell):
                value.raw_cell = value.transformed_cell = ""
        frame = frame.f_back
    if marker in getattr(shell, "_last_input_line", ""):
        shell._last_input_line = ""  # noqa: SLF001 - IPython keeps it for crash reports
    _erase_from_history(shell, shell.history_manager, marker)
    with suppress(Exception):
        content = shell.kernel.get_parent("shell")["content"]
        if marker in content["code"]:
            content["code"] = ""


def _erase_from_history(shell: Any, history: Any, marker: str) -> None:
    """Undo the history's last entry, so that its numbers are those of the user's runs."""
    lists = (history.input_hist_raw, history.input_hist_parsed)
    if not any(lines and marker in lines[-1] for lines in lists):
        return
    for lines in lists:
        if marker in lines[-1]:
            lines.pop()
    history.db_input_cache[:] = [line for line in history.db_input_cache if marker not in line[2]]
    shell.user_ns.pop(f"_i{shell.execution_count}", None)
    shell.execution_count -= 1
    history._i00, history._i, history._ii = history._i, history._ii, history._iii  # noqa: SLF001
    kept = {"_i": history._i, "_ii": history._ii, "_iii": history._iii}  # noqa: SLF001
    shell.user_ns.update(kept)


def _resolve_path(shell: Any, name: str) -> str:
    folder = find_session_folder(shell)
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise PermissionError(name)
    return str(path)
