"""Starts what an image runs, as a container engine does: first process, own network, few rights."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from . import _clean_tree
from ._dockerfile import Image

LIMIT = 60
ALL_RIGHTS = ("ALL",)
# What Docker and containerd give to a container that asks for nothing.
USUAL_RIGHTS = tuple(
    f"CAP_{name}"
    for name in (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
        *("NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
)
# A listener of ours, carried into the container's network: it connects to the port there.
_RELAY = """
import asyncio, socket, sys
async def pipe(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
async def relay(reader, writer):
    try:
        inner, outer = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
    except OSError:
        return writer.close()
    await asyncio.gather(pipe(reader, outer), pipe(inner, writer))
async def main():
    server = await asyncio.start_server(relay, sock=socket.socket(fileno=int(sys.argv[1])))
    await server.serve_forever()
asyncio.run(main())
"""


class Container:
    """A running container.

    Attributes:
        url: Where its port is reached from outside.
        words: What it printed until it was ready.
    """

    url: str
    words: str

    def __init__(self, image: Image, process: subprocess.Popen[bytes], pid: int) -> None:
        self.image = image
        self._process = process
        self._pid = pid

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a program inside."""
        return self._enter(["--root", "--wd", "--mount", "--pid"], command)

    def stop(self) -> tuple[int, float]:
        """Ask the first process to end; its exit status, and the seconds that it took."""
        start = time.monotonic()
        os.kill(self._pid, signal.SIGTERM)
        return self._process.wait(LIMIT), time.monotonic() - start

    def wait_until_ready(self) -> None:
        """Read what it prints until the endpoint has been announced."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        self.words = ""
        while "press Ctrl-C" not in self.words:  # the last of what it announces
            assert select.select([output], [], [], LIMIT)[0], self.words
            data = os.read(output, 65536).decode()
            assert data, self.words
            self.words += data

    @contextmanager
    def reached(self, port: int) -> Iterator[None]:
        """Make its port reachable from here for a while."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            number = listener.fileno()
            command = [sys.executable, "-I", "-c", _RELAY, str(number), str(port)]
            relay = subprocess.Popen(
                ["nsenter", "--target", str(self._pid), "--net", *command], pass_fds=[number]
            )
        try:
            yield
        finally:
            relay.kill()
            relay.wait(LIMIT)

    def _enter(self, spaces: list[str], command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "--target", str(self._pid), "--net", *spaces, "--", *command],
            env=self.image.env,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )


@contextmanager
def running(
    image: Image, *, rights: tuple[str, ...], env: Mapping[str, str]
) -> Iterator[Container]:
    """Start an image's entry point; nothing is left of it afterwards."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [
            *("bwrap", "--ro-bind", str(image.tree), "/", "--proc", "/proc", "--dev", "/dev"),
            *("--tmpfs", "/tmp", "--tmpfs", "/run", "--die-with-parent", "--as-pid-1"),
            *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
            *("--cap-drop", "ALL", *(part for right in rights for part in ("--cap-add", right))),
            *("--clearenv", *_clean_tree.variables({**image.env, "HOME": "/root", **env})),
            *("--chdir", image.workdir, "--info-fd", str(writer), "--", *image.entrypoint),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[writer],
    )
    os.close(writer)
    with process, os.fdopen(reader) as facts:
        container = Container(image, process, json.load(facts)["child-pid"])
        try:
            container.wait_until_ready()
            with container.reached(image.ports[0]):
                yield container
        finally:
            with suppress(ProcessLookupError):
                os.kill(container._pid, signal.SIGKILL)
            process.kill()
