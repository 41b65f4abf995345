"""A sign-in service that never gets done keeps neither the caller nor a thread."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import anyio.abc
import pytest

from cci_plugins.azure import credentials
from cci_plugins.azure.credentials import CachedCredential
from cci_plugins.errors import AuthenticationError

pytest.importorskip("azure.identity")
sign_in_transport = pytest.importorskip("cci_plugins.azure.sign_in_transport")

pytestmark = pytest.mark.anyio

SCOPE = "https://dynamicsessions.io/.default"
TEXT = b"HTTP/1.1 200 OK\r\nserver: " + b"x" * 60_000
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LATER = b"HTTP/1.1 503 Busy\r\nretry-after: 100000\r\ncontent-length: 0\r\n\r\n"


async def drip(stream: anyio.abc.ByteStream, begin: bytes, rest: bytes) -> None:
    """Send the beginning, and then one byte after another until the client leaves."""
    await stream.send(begin)
    while True:
        for byte in rest:
            await stream.send(bytes([byte]))
            await anyio.sleep(0.02)


async def answer_later(stream: anyio.abc.ByteStream) -> None:
    await stream.receive()
    await stream.send(LATER)


Answer = Callable[[anyio.abc.ByteStream], Awaitable[None]]
ANSWERS: list[tuple[str, Answer]] = [
    ("http", partial(drip, begin=b"", rest=TEXT)),
    ("http", partial(drip, begin=b"HTTP/1.1 200 OK\r\n", rest=b"a: b\r\n" * 10)),
    ("http", partial(drip, begin=b"", rest=b"HTTP/1.1 100 Continue\r\n\r\n")),
    ("http", partial(drip, begin=CHUNKED, rest=b"0" * 1_000)),
    ("https", partial(drip, begin=b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", rest=b"x")),
    ("http", answer_later),
]


def find_sign_ins() -> list[str]:
    """Return the stacks of the threads in which azure-identity still works."""
    stacks = ["".join(traceback.format_stack(one)) for one in sys._current_frames().values()]
    return [stack for stack in stacks if "azure/identity" in stack]


async def test_a_sign_in_ends_its_thread_whatever_the_service_sends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sign_in_transport, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(credentials, "SIGN_IN_SECONDS", 3)
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    monkeypatch.setenv("IDENTITY_HEADER", "secret")
    for number, (scheme, answer) in enumerate(ANSWERS):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            monkeypatch.setenv("IDENTITY_ENDPOINT", f"{scheme}://127.0.0.1:{port}/token")
            tasks.start_soon(listener.serve, partial(_serve, answer))
            credential = CachedCredential()
            with anyio.fail_after(30), pytest.raises(AuthenticationError, match="sign-in service"):
                await credential.get_token(SCOPE)
            with anyio.move_on_after(10):
                while find_sign_ins():
                    await anyio.sleep(0.05)
            assert not find_sign_ins(), number
            await credential.close()
            tasks.cancel_scope.cancel()


async def _serve(answer: Answer, stream: anyio.abc.ByteStream) -> None:
    async with stream:
        try:
            await answer(stream)
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            return
