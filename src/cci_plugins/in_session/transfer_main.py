"""What a session is told to move a file by URL; standard library only.

The URL is in the code of the call, so that call is taken out of all that keeps code.
"""

from __future__ import annotations

import gc
import json
import linecache
import os
import sys
import time
import urllib.parse
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from cci_plugins.in_session.transfer import transfer

FOLDER = Path("/mnt/data")
PROGRESS_INTERVAL = 0.25  # seconds; whoever tells waits until it is sent


def main(shell: Any, marker: str, job: dict[str, Any]) -> None:
    """Do a job for a name below the session's folder; print what came of it between two marks."""
    reported_at = time.monotonic()

    def report_progress(done: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= PROGRESS_INTERVAL:
            reported_at = time.monotonic()
            _write_output(f"{marker}{done}\n")

    with suppress(Exception):
        erase_call(shell, marker)
    try:
        job["path"] = _resolve_path(shell, job.pop("name"))
        job["proxy_socket"] = getattr(shell, "cci_proxy_socket", None)
        report = transfer(job, report_progress)
    except PermissionError:
        report = {"failed": "its name leads out of the session's folder", "kind": "disk"}
    except BaseException as error:  # noqa: BLE001 - an interrupt; a traceback would show the frames
        report = {"failed": f"it was stopped ({type(error).__name__})", "kind": "broken"}
    job.clear()
    # it remembers the parts of every URL
    urllib.parse.clear_cache()  # type: ignore[attr-defined]  # typeshed leaves it out
    gc.collect()  # frames and what was raised in them hold each other
    _write_output(f"{marker}{json.dumps(report)}{marker}")


def erase_call(shell: Any, marker: str) -> None:
    """Take the code that has this mark out of the history and out of what tracebacks read."""
    for name, entry in list(linecache.cache.items()):
        if len(entry) > 1 and any(marker in line for line in entry[2]):
            del linecache.cache[name]
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the one way to the caller's call
    while frame is not None:
        for value in list(frame.f_locals.values()):
            if type(value).__name__ == "ExecutionInfo" and marker in str(value.raw_cell):
                value.raw_cell = value.transformed_cell = ""
        frame = frame.f_back
    if marker in getattr(shell, "_last_input_line", ""):
        shell._last_input_line = ""  # noqa: SLF001 - IPython's, for its crash reports
    _erase_from_history(shell, shell.history_manager, marker)
    with suppress(Exception):
        content = shell.kernel.get_parent("shell")["content"]
        if marker in content["code"]:
            content["code"] = ""


def _write_output(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _erase_from_history(shell: Any, history: Any, marker: str) -> None:
    """Leave the history as if nothing had run, so that the numbers are those of the user's runs."""
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
    """Where a name lies; the code may have changed its working directory since."""
    usual = FOLDER.is_dir() and os.access(FOLDER, os.W_OK)
    folder = (FOLDER if usual else Path(getattr(shell, "starting_dir", "."))).resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise PermissionError(name)
    return str(path)
