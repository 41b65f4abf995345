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
TOLD_EVERY = 0.25  # seconds; whoever tells waits until it is sent


def main(shell: Any, mark: str, job: dict[str, Any]) -> None:
    """Do a job for a name below the session's folder; print what came of it between two marks."""
    said = time.monotonic()

    def tell(done: int) -> None:
        nonlocal said
        if time.monotonic() - said >= TOLD_EVERY:
            said = time.monotonic()
            _say(f"{mark}{done}\n")

    with suppress(Exception):
        forget_call(shell, mark)
    try:
        job["path"] = _path(shell, job.pop("name"))
        job["way_out"] = getattr(shell, "cci_way_out", None)
        report = transfer(job, tell)
    except PermissionError:
        report = {"failed": "its name leads out of the session's folder", "kind": "disk"}
    except BaseException as error:  # noqa: BLE001 - an interrupt; a traceback would show the frames
        report = {"failed": f"it was stopped ({type(error).__name__})", "kind": "broken"}
    job.clear()
    # it remembers the parts of every URL
    urllib.parse.clear_cache()  # type: ignore[attr-defined]  # typeshed leaves it out
    gc.collect()  # frames and what was raised in them hold each other
    _say(f"{mark}{json.dumps(report)}{mark}")


def forget_call(shell: Any, mark: str) -> None:
    """Take the code that has this mark out of the history and out of what tracebacks read."""
    for name, entry in list(linecache.cache.items()):
        if len(entry) > 1 and any(mark in line for line in entry[2]):
            del linecache.cache[name]
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the one way to the caller's call
    while frame is not None:
        for value in list(frame.f_locals.values()):
            if type(value).__name__ == "ExecutionInfo" and mark in str(value.raw_cell):
                value.raw_cell = value.transformed_cell = ""
        frame = frame.f_back
    if mark in getattr(shell, "_last_input_line", ""):
        shell._last_input_line = ""  # noqa: SLF001 - IPython's, for its crash reports
    _forget_history(shell, shell.history_manager, mark)
    with suppress(Exception):
        content = shell.kernel.get_parent("shell")["content"]
        if mark in content["code"]:
            content["code"] = ""


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _forget_history(shell: Any, history: Any, mark: str) -> None:
    """Leave the history as if nothing had run, so that the numbers are those of the user's runs."""
    lists = (history.input_hist_raw, history.input_hist_parsed)
    if not any(lines and mark in lines[-1] for lines in lists):
        return
    for lines in lists:
        if mark in lines[-1]:
            lines.pop()
    history.db_input_cache[:] = [line for line in history.db_input_cache if mark not in line[2]]
    shell.user_ns.pop(f"_i{shell.execution_count}", None)
    shell.execution_count -= 1
    history._i00, history._i, history._ii = history._i, history._ii, history._iii  # noqa: SLF001
    kept = {"_i": history._i, "_ii": history._ii, "_iii": history._iii}  # noqa: SLF001
    shell.user_ns.update(kept)


def _path(shell: Any, name: str) -> str:
    """Where a name lies; the code may have changed its working directory since."""
    usual = FOLDER.is_dir() and os.access(FOLDER, os.W_OK)
    folder = (FOLDER if usual else Path(getattr(shell, "starting_dir", "."))).resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise PermissionError(name)
    return str(path)
