"""Child processes that move files, and the relay of sealed jobs to them.

`open_child` starts a child process and returns its public key. `relay_job` passes it a job that is
sealed for this key, so this process never sees the URL in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

CHILD_CODE = "import sys,zlib,base64;exec(zlib.decompress(base64.b64decode(sys.stdin.readline())))"
END_SECONDS = 5.0
MAX_CHILDREN = 8  # that wait for a job


def get_children(shell: Any) -> dict[str, Any]:
    """Return the session's child processes, by name."""
    children: dict[str, Any] = shell.__dict__.setdefault("cci_transfers", {})
    return children


def open_child(shell: Any, source: str) -> dict[str, Any]:
    """Start a child process.

    Args:
        shell: IPython's shell.
        source: The program, compressed and in base64.

    Returns:
        Its name and its public key. `plain` where a session cannot have child processes.
    """
    children = get_children(shell)
    for name in list(children)[: -MAX_CHILDREN + 1]:
        end_child(children.pop(name))
    try:
        child = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", "-c", CHILD_CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
    except (OSError, ValueError, TypeError):
        return {"plain": True}
    try:
        write_line(child, source)
        public = json.loads(child.stdout.readline())["public"]  # type: ignore[union-attr]  # a pipe
    except (OSError, ValueError, KeyError):
        end_child(child)
        return {"plain": True}
    except BaseException:
        end_child(child)
        raise
    name = token_hex(8)
    children[name] = child
    return {"child": name, "public": public}


def relay_job(
    shell: Any, job: dict[str, Any], folder: Path, report_progress: Callable[[int], object]
) -> dict[str, Any]:
    """Pass a sealed job to its child process and return the report.

    Args:
        shell: IPython's shell.
        job: `child` and `sealed`.
        folder: The session's folder.
        report_progress: Called with the bytes that were moved so far.
    """
    child = get_children(shell).pop(job["child"], None)
    if child is None:
        return {"failed": "the process that should move it has ended", "kind": "broken"}
    report: dict[str, Any] = {}
    try:
        socket = getattr(shell, "cci_proxy_socket", None)
        request = {"sealed": job["sealed"], "folder": str(folder), "proxy_socket": socket}
        write_line(child, json.dumps(request))
        for line in child.stdout:
            report = json.loads(line)
            if "progress" not in report:
                break
            report_progress(report["progress"])
    except (OSError, ValueError):
        report = {}
    finally:
        if "more" in report:
            get_children(shell)[job["child"]] = child  # for the job that continues this one
        else:
            end_child(child)
    if not report or "progress" in report:
        return {"failed": "the process that moved it has ended", "kind": "broken"}
    return report


def write_line(child: Any, line: str) -> None:
    """Send a line to a child process."""
    child.stdin.write(line + "\n")
    child.stdin.flush()


def end_child(child: Any) -> None:
    """End a child process."""
    with suppress(OSError):
        child.stdin.close()
    try:
        with suppress(OSError):
            child.terminate()
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    finally:
        child.stdout.close()
