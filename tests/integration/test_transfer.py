"""Transfers with a misbehaving server: the whole file, or one clear reason."""

import hashlib
import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cci_plugins.in_session import transfer as transfer_module
from cci_plugins.in_session.transfer import transfer
from cci_plugins.in_session.url_client import TransferFault

DATA = os.urandom(3 << 20)
OTHER = os.urandom(3 << 20)


class Site(BaseHTTPRequestHandler):
    """Responds by its server's plan, one step for each request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        plan, asked = self.server.plan, self.server.asked
        step = plan[min(len(asked), len(plan) - 1)]
        asked.append(dict(self.headers))
        data = step.get("data", DATA)
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if step.get("ranges", True) else 0
        start = step.get("start", start)
        body = data[start:]
        self.send_response(step.get("status") or (206 if start else 200))
        headers = {"Content-Length": str(len(body)), "ETag": '"one"'}
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        for name, value in (headers | step.get("headers", {})).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: step.get("cut", len(body))])
        self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def site(*plan):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.plan, server.asked, server.daemon_threads = plan, [], True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def fetch(server, folder, on_progress=lambda _: None, **job):
    url = f"http://127.0.0.1:{server.server_port}/a?sig=planted-signature"
    report = transfer(
        {"verb": "get", "url": url, "path": str(folder / "a"), "seconds": 60.0, **job}, on_progress
    )
    assert "planted" not in json.dumps(report)
    if "failed" in report:
        assert list(folder.iterdir()) == []
    elif "size" in report:
        found = (folder / "a").read_bytes()
        assert report == {"size": len(found), "sha256": hashlib.sha256(found).hexdigest()}
    return report


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(transfer_module, "RETRY_PAUSE", 0.01)


def test_a_broken_download_continues_where_it_broke(tmp_path):
    with site({"cut": 1 << 20}, {"cut": 1 << 20}, {}) as server:
        assert fetch(server, tmp_path)["size"] == len(DATA)
        assert (tmp_path / "a").read_bytes() == DATA
    assert [asked.get("Range") for asked in server.asked] == [
        None,
        f"bytes={1 << 20}-",
        f"bytes={2 << 20}-",
    ]
    assert server.asked[1]["If-Match"] == '"one"'


CHANGED = [
    {"headers": {"ETag": '"two"'}, "data": OTHER},  # it does not look at If-Match
    {"headers": {"ETag": None}, "data": OTHER},
    {"start": 5, "status": 206},
    {"headers": {"Content-Range": None}},
    {"headers": {"Content-Range": "bytes x"}},
    {"status": 412},
]


@pytest.mark.parametrize(
    "second", CHANGED, ids=["etag", "no-etag", "start", "no-range", "odd-range", "412"]
)
def test_parts_of_two_files_are_never_put_together(tmp_path, second):
    second = {"ranges": True, **second}
    with site({"cut": 1 << 20}, second) as server:
        assert fetch(server, tmp_path)["kind"] == "changed"


def test_without_an_etag_it_starts_over(tmp_path):
    none = {"headers": {"ETag": None}}
    with site({"cut": 1 << 20, **none}, {"data": OTHER, **none}) as server:
        assert fetch(server, tmp_path)["size"] == len(OTHER)
    assert (tmp_path / "a").read_bytes() == OTHER
    assert "Range" not in server.asked[1]


def test_a_server_without_ranges_sends_it_again(tmp_path):
    with site({"cut": 1 << 20}, {"ranges": False, "status": 200, "data": OTHER}) as server:
        assert fetch(server, tmp_path)["size"] == len(OTHER)
    assert (tmp_path / "a").read_bytes() == OTHER


@pytest.mark.parametrize("length", ["x", "-1", "9" * 5000])
def test_a_false_length_raises_nothing(tmp_path, length):
    with site({"headers": {"Content-Length": length}}) as server:
        report = fetch(server, tmp_path)
    assert "failed" in report or report["size"] == len(DATA)


def test_a_file_that_is_too_large_or_not_as_expected_is_refused(tmp_path):
    with site({}) as server:
        assert fetch(server, tmp_path, limit=1 << 20)["kind"] == "too_large"
        assert fetch(server, tmp_path, size=5)["kind"] == "changed"
        assert fetch(server, tmp_path, sha256="0" * 64)["kind"] == "changed"
        assert fetch(server, tmp_path, size=len(DATA))["size"] == len(DATA)


def test_a_redirect_to_another_host_is_not_followed(tmp_path):
    with site({}) as other:
        away = f"http://localhost:{other.server_port}/a"
        with site({"status": 302, "headers": {"Location": away}}) as server:
            assert fetch(server, tmp_path)["failed"].endswith("302")
        with site({"status": 302, "headers": {"Location": "file:///etc/passwd"}}) as server:
            assert fetch(server, tmp_path)["failed"].endswith("302")
        assert other.asked == []


def test_a_transfer_that_takes_longer_than_a_job_is_continued_by_another(tmp_path):
    with site({}) as server:
        report = fetch(server, tmp_path, seconds=-1.0)
        while "more" in report:
            report = fetch(server, tmp_path, seconds=-1.0, **report)
        assert (tmp_path / "a").read_bytes() == DATA
        assert len(server.asked) > 1
    (tmp_path / "a").unlink()
    with site({"headers": {"ETag": None}}) as server:
        assert "no ETag" in fetch(server, tmp_path, seconds=-1.0)["failed"]


def test_an_address_that_is_not_public_is_refused(tmp_path):
    with site({}) as server:
        url = f"https://localhost:{server.server_port}/a?sig=planted"
        job = {"verb": "get", "url": url, "path": str(tmp_path / "a"), "seconds": 5.0}
        report = transfer({**job, "public_only": True}, lambda _: None)
        assert report == {"failed": "the host's address is not public", "kind": "refused"}
        assert server.asked == []


def test_a_caller_that_gives_up_stops_it_at_once(tmp_path):
    def stop(_):
        raise TransferFault("broken", "it was given up")

    with site({}) as server:
        assert fetch(server, tmp_path, stop)["failed"] == "it was given up"
        assert len(server.asked) == 1
