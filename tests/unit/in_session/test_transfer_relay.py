"""A child process moves a file by a URL that only it can read."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cci_plugins.files.in_session_transfer import _Envelope, _pack_child_source
from cci_plugins.in_session.sealing import KeyPair, SealError, seal
from cci_plugins.in_session.transfer_relay import open_child, relay_job

DATA = bytes(range(256)) * 20_000


class Site(BaseHTTPRequestHandler):
    """Serves one file."""

    def do_GET(self) -> None:
        """Answer with the file."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.send_header("ETag", '"one"')
        self.end_headers()
        self.wfile.write(DATA)

    def log_message(self, *_: Any) -> None:
        """Do nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/a?sig=planted"
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.mark.enable_socket
def test_a_sealed_job_is_moved_by_the_child_and_leaves_no_process(url: str, tmp_path: Path) -> None:
    shell = SimpleNamespace()

    def move(job: dict[str, Any], **changes: Any) -> dict[str, Any]:
        opened = open_child(shell, _pack_child_source())
        request = {
            "child": opened["child"],
            "sealed": seal(json.dumps(job).encode(), opened["public"]),
        }
        assert "planted" not in json.dumps(request)
        return relay_job(shell, request | changes, tmp_path.resolve(), lambda _: None)

    job = {"verb": "get", "url": url, "name": "a.bin", "seconds": 60.0}
    digest = hashlib.sha256(DATA).hexdigest()
    assert move(job) == {"size": len(DATA), "sha256": digest}
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert move(job | {"name": "../b"})["kind"] == "disk"
    assert move(job | {"sha256": "0" * 64})["kind"] == "changed"
    assert move(job, sealed=seal(b"{}", KeyPair().public))["kind"] == "broken"
    assert move(job, child="unknown")["kind"] == "broken"
    first = move(job | {"seconds": -1.0})
    assert first["more"] > 0
    (name,) = [name for name, child in shell.cci_transfers.items() if child.poll() is None][-1:]
    assert [path.name for path in tmp_path.iterdir() if "part" not in path.name] == ["a.bin"]
    for _ in range(10):
        open_child(shell, _pack_child_source())
    assert len(shell.cci_transfers) == 8
    assert name not in shell.cci_transfers
    for child in shell.cci_transfers.values():
        child.stdin.close()
        assert child.wait(20) == 0
        child.stdout.close()


def test_a_session_without_child_processes_gets_the_job_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    report = open_child(SimpleNamespace(), _pack_child_source())
    assert report == {"plain": True}
    envelope, job = _Envelope(), {"verb": "get", "url": "u", "name": "a", "seconds": 1.0}
    assert envelope.pack(job)["verb"] == "open"
    assert envelope.accept(report)
    assert envelope.pack(job) == job
    assert not envelope.accept({"plain": True})


def test_only_the_owner_of_the_key_opens_what_is_sealed() -> None:
    pair, other = KeyPair(), KeyPair()
    for message in (b"", b"x", b"\0" * 1000, "https://h/?sig=\u00e9".encode()):
        sealed = seal(message, pair.public)
        assert pair.open(sealed) == message
        with pytest.raises(SealError):
            other.open(sealed)
    for change in ({"data": "AAAA"}, {"tag": ""}, {"public": "1"}, {"public": None}, {"data": "%"}):
        with pytest.raises(SealError):
            pair.open(sealed | change)
    for wrong in ("0", "1", "-5", "x", "f" * 513):
        with pytest.raises(SealError):
            seal(b"", wrong)
