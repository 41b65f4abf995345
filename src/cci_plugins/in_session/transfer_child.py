"""Program of the child process that moves a file. Only its memory ever holds the signed URL.

It sends its public key, and then answers each job with its progress and its report. Every message
is one line of JSON. It ends with its standard input, and so with the process that started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from cci_plugins.in_session.sealing import KeyPair, SealError
from cci_plugins.in_session.transfer import transfer

IDLE_SECONDS = 300.0  # without a job


def run_child() -> None:
    """Answer jobs until the input ends."""
    with suppress(ValueError, OSError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it decides
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which removes a part of a file
    pair = KeyPair()
    send({"public": pair.public})
    while line := read_line():
        send(answer_request(pair, json.loads(line)))


def read_line() -> str:
    """Return the next line of the input, or end the process when none comes."""
    timer = threading.Timer(IDLE_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
    try:
        return sys.stdin.readline()
    finally:
        timer.cancel()


def answer_request(pair: KeyPair, request: dict[str, Any]) -> dict[str, Any]:
    """Run a sealed job and return its report."""
    try:
        job = json.loads(pair.open(request["sealed"]))
    except SealError as error:
        return {"failed": str(error), "kind": "broken"}
    folder = Path(request["folder"])
    path = (folder / job.pop("name")).resolve()
    if not path.is_relative_to(folder):
        return {"failed": "its name leads out of the session's folder", "kind": "disk"}
    job |= {"path": str(path), "proxy_socket": request["proxy_socket"]}
    return transfer(job, lambda done: send({"progress": done}))


def send(message: dict[str, Any]) -> None:
    """Send one message."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
