"""Tests of the connection to a kernel: whatever it sends, the host's memory is bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cci_plugins.pools.local import kernel_socket
from cci_plugins.pools.local.kernel_socket import (
    HIGH_WATER_BYTES,
    MALFORMED,
    MAX_CONTROL_BYTES,
    MAX_FRAMES,
    MAX_MESSAGE_BYTES,
    MAX_REPLY_BYTES,
    REPLY_TOO_LARGE,
    TOO_LARGE,
    Channel,
    KernelConnectionError,
    KernelSocket,
)

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
_COMMAND = b"\x05READY\x0bSocket-Type\x00\x00\x00\x04XPUB"
READY = bytes((4, len(_COMMAND))) + _COMMAND
MIB = 1 << 20


class Transport(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_reading = True
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.written += data

    def abort(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def get_write_buffer_size(self) -> int:
        return 0


def connect(channel: Channel = "iopub") -> tuple[KernelSocket, Transport]:
    socket, transport = KernelSocket(channel), Transport()
    socket.connection_made(transport)
    socket.data_received(GREETING + READY)
    return socket, transport


def frame(body: bytes, *, more: bool = False) -> bytes:
    return bytes((2 | more,)) + len(body).to_bytes(8, "big") + body


def receive_reason(socket: KernelSocket) -> str:
    with pytest.raises(KernelConnectionError) as caught:
        asyncio.run(socket.receive())
    return str(caught.value)


@given(
    messages=st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=4), max_size=6),
    cuts=st.lists(st.integers(1, 50), min_size=1, max_size=20),
)
def test_messages_are_read_wherever_the_bytes_are_cut(
    messages: list[list[bytes]], cuts: list[int]
) -> None:
    data = GREETING + READY
    for parts in messages:
        data += b"".join(frame(part, more=True) for part in parts[:-1]) + frame(parts[-1])
    socket = KernelSocket("iopub")
    socket.connection_made(Transport())
    at, sizes = 0, iter(cuts * len(data))
    while at < len(data):
        size = next(sizes)
        socket.data_received(data[at : at + size])
        at += size

    async def read() -> list[list[bytes]]:
        return [(await socket.receive())[0] for _ in messages]

    assert asyncio.run(read()) == messages


def test_a_message_is_refused_by_the_size_in_its_header() -> None:
    socket, transport = connect()
    socket.data_received(bytes((2,)) + (MAX_MESSAGE_BYTES + 1).to_bytes(8, "big"))
    assert transport.is_aborted
    assert receive_reason(socket) == TOO_LARGE


@pytest.mark.parametrize(
    ("channel", "limit"), [("shell", MAX_REPLY_BYTES), ("control", MAX_CONTROL_BYTES)]
)
def test_a_reply_is_refused_earlier_than_output(channel: Channel, limit: int) -> None:
    socket, transport = connect(channel)
    socket.data_received(bytes((2,)) + limit.to_bytes(8, "big"))
    assert not transport.is_aborted
    socket, transport = connect(channel)
    socket.data_received(bytes((2,)) + (limit + 1).to_bytes(8, "big"))
    assert transport.is_aborted
    assert receive_reason(socket) == REPLY_TOO_LARGE


def test_frames_that_never_end_are_refused_together() -> None:
    socket, transport = connect()
    part = frame(bytes(MIB), more=True)
    sent = 0
    while not transport.is_aborted and sent < 100:
        socket.data_received(part)
        sent += 1
    assert sent == MAX_MESSAGE_BYTES // MIB + 1
    assert receive_reason(socket) == TOO_LARGE


def test_empty_frames_that_never_end_are_refused() -> None:
    socket, transport = connect()
    socket.data_received(frame(b"", more=True) * (MAX_FRAMES + 1))
    assert transport.is_aborted
    assert receive_reason(socket) == MALFORMED


def test_commands_without_end_are_refused() -> None:
    socket, transport = connect()
    socket.data_received(b"\x04\x00" * (kernel_socket.MAX_COMMANDS + 1))
    assert transport.is_aborted


def test_nothing_is_read_while_enough_messages_wait() -> None:
    socket, transport = connect()
    received = 0
    for _ in range(100):
        if transport.is_reading:
            socket.data_received(frame(bytes(64 * 1024)))
            received += 1
    assert received == HIGH_WATER_BYTES // (64 * 1024)

    async def drain() -> int:
        while not transport.is_reading:
            await socket.receive()
        return received

    asyncio.run(drain())
    assert transport.is_reading


def test_many_small_messages_are_taken_in_slices() -> None:
    socket, transport = connect()
    count = 100_000
    socket.data_received(b"\x00\x01x" * count)
    assert not transport.is_reading

    async def drain() -> int:
        for _ in range(count):
            assert (await socket.receive())[0] == [b"x"]
        return count

    assert asyncio.run(drain()) == count


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n".ljust(64), bytes(64)])
def test_another_protocol_is_refused(greeting: bytes) -> None:
    socket, transport = KernelSocket("shell"), Transport()
    socket.connection_made(transport)
    socket.data_received(greeting)
    assert transport.is_aborted
    assert receive_reason(socket) == MALFORMED


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"{tmp_path}/k"


def test_it_talks_to_sockets_of_libzmq(address: str) -> None:
    zmq = pytest.importorskip("zmq")
    context = zmq.Context()
    router, publisher = context.socket(zmq.ROUTER), context.socket(zmq.XPUB)
    for number, socket in enumerate((router, publisher), 1):
        socket.setsockopt(zmq.RCVTIMEO, 10_000)
        socket.bind(f"ipc://{address}-{number}")
    connection = {"transport": "ipc", "ip": address, "shell_port": 1, "iopub_port": 2}

    async def talk() -> None:
        shell = await KernelSocket.connect(connection, "shell")
        iopub = await KernelSocket.connect(connection, "iopub")
        shell.send([b"a", b"b" * 1000])
        identity, *parts = await asyncio.to_thread(router.recv_multipart)
        assert parts == [b"a", b"b" * 1000]
        router.send_multipart([identity, b"", b"c" * 70_000])
        assert (await shell.receive())[0] == [b"", b"c" * 70_000]
        assert await asyncio.to_thread(publisher.recv) == b"\x01"
        publisher.send_multipart([b"topic", b"d" * 5_000_000])
        assert (await iopub.receive())[0] == [b"topic", b"d" * 5_000_000]
        iopub.close()
        shell.close()

    try:
        asyncio.run(asyncio.wait_for(talk(), 30))
    finally:
        context.destroy(linger=0)
