"""Tiny wheels, an index of them on the loopback address, and the installers of this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


def write_wheel(
    folder: Path, name: str, version: str, requires: str = "", source: str | None = None
) -> str:
    """Write the wheel of a module, and return its hash. By default its `VALUE` is its name."""
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": source or f"VALUE = {name!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name_inside, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(name_inside, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find_installers() -> list[str]:
    """Return the folder of uv in this checkout, or skip the test if there is neither uv nor pip."""
    own = _ROOT / ".hatch" / "bin"
    if (own / "uv").exists():
        return [str(own)]
    if shutil.which("uv") is None and shutil.which("pip") is None:
        pytest.skip("neither uv nor pip is on PATH")
    return []


def use_installer(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only this installer be on PATH, or skip the test."""
    own = _ROOT / ".hatch" / "bin" / name
    found = shutil.which(name) or (str(own) if own.exists() else None)
    if found is None:
        pytest.skip(f"{name} is not on PATH")
    place = Path(found).parent
    if name != "uv" and (place / "uv").exists():
        (folder / name).symlink_to(found)
        place = folder
    system = [path for path in ("/usr/bin", "/bin") if not Path(path, "uv").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join([str(place), *system]))


class LoopbackIndex:
    """An index of a folder's wheels. It notes what it was asked for.

    Attributes:
        url: Its address.
        paths: Paths of all requests so far.
        asked: Set once there was a request.
    """

    def __init__(self, folder: Path, *, hangs: bool) -> None:
        self.paths: list[str] = []
        self.asked = threading.Event()
        self._folder = folder
        self.ended = threading.Event()
        self._hangs = hangs
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.paths.append(handler.path)
        self.asked.set()
        if self._hangs:
            self.ended.wait(60)
        name = handler.path.strip("/").rpartition("/")[2]
        file = self._folder / name
        wheels = [path.name for path in self._folder.glob(f"{name.replace('-', '_')}-[0-9]*.whl")]
        page = "".join(f'<a href="/files/{wheel}">{wheel}</a>\n' for wheel in wheels).encode()
        content = file.read_bytes() if file.is_file() else page
        handler.send_response(200 if content else 404)
        handler.send_header("Content-Type", "text/html")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(content)


@contextmanager
def serve_index(folder: Path, *, hangs: bool = False) -> Iterator[LoopbackIndex]:
    """Serve an index. One that hangs answers no request before the end."""
    index = LoopbackIndex(folder, hangs=hangs)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.answer(self)

        do_HEAD = do_GET  # noqa: N815 - the name that the server calls

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index.url = f"http://127.0.0.1:{server.server_port}/simple"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield index
        finally:
            index.ended.set()
            server.shutdown()
            thread.join()
