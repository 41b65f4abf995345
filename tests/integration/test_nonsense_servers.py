"""A server that is not a pool is reported at once, and nothing is ended that never began."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ._command import Command

pytestmark = pytest.mark.slow
PAGE = b"<!doctype html><html><body><h1>It works</h1></body></html>"
LONGEST = 25.0  # a hang guard: half of what the retries of a known pool take


@contextmanager
def nonsense(status: int, body: bytes) -> Iterator[tuple[str, list[str]]]:
    """Answer everything in the same way, and yield the URL and the methods that were asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            asked.append(f"{self.command} {self.path}")
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - names of the base class

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.quick("page")
@pytest.mark.parametrize("kind", ["platform", "custom"])
@pytest.mark.parametrize(
    "answer",
    [(200, PAGE), (200, b"\x00\xff garbage"), (200, b'{"hello": 1}'), (404, PAGE), (405, b"")],
    ids=["page", "garbage", "object", "missing", "refused"],
)
def test_a_command_reports_at_once_that_a_server_is_not_a_pool(
    kind: str,
    answer: tuple[int, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = Command(tmp_path, monkeypatch, capsys)
    with nonsense(*answer) as (url, asked):
        variables = {"AZURE_SESSION_POOL_ENDPOINT": url, "CCI_ACCESS_TOKEN": "a-token"}
        if kind == "platform":
            variables = {
                "AZURE_SESSION_POOL_MCP_ENDPOINT": f"{url}/mcp",
                "AZURE_SESSION_POOL_MCP_KEY": "a-key",
            }
        began = time.monotonic()
        done = command("run", "print(1)", **variables)
        seconds = time.monotonic() - began
    assert done.returncode == 5, done
    assert "endpoint" in done.stderr.partition("hint: ")[2], done.stderr
    assert "may have run" not in done.stderr
    assert not [line for line in asked if line.startswith("DELETE") or "stopSession" in line]
    assert len(asked) <= 20
    assert seconds < LONGEST
