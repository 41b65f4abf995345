"""The egress proxy on a machine that refuses a system call."""

from __future__ import annotations

import errno
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("needs Unix sockets", allow_module_level=True)

from cci_plugins.pools.local import egress_proxy
from cci_plugins.pools.local.egress_proxy import EgressProxy

LIMIT = 10.0


def test_a_connection_that_cannot_be_accepted_does_not_keep_a_processor_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    def refuse(_: socket.socket) -> None:
        tries.append(time.monotonic())
        raise OSError(errno.EMFILE, "Too many open files")

    path = str(tmp_path / "egress")
    proxy = EgressProxy(path, ())
    with monkeypatch.context() as patch, socket.socket(socket.AF_UNIX) as client:
        patch.setattr(socket.socket, "accept", refuse)
        client.connect(path)
        deadline = time.monotonic() + LIMIT
        while len(tries) < 3 and time.monotonic() < deadline:
            threading.Event().wait(0.01)
    proxy.close()
    assert len(tries) >= 3
    assert tries[2] - tries[0] > egress_proxy.ACCEPT_AGAIN_SECONDS


def test_a_thread_that_does_not_start_leaves_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    path = str(tmp_path / "egress")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            EgressProxy(path, ())
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(path)
