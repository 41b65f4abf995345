"""Tests of output at the pace of the host, with ipykernel's own thread and sockets of libzmq."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cci_plugins.in_session.output_pace import wait_for_the_host
from cci_plugins.pools.local.isolation.launcher.boot import MAX_WAITING_MESSAGES, bound_queue
from cci_plugins.pools.local.kernel_socket import HIGH_WATER_BYTES, KernelSocket

zmq = pytest.importorskip("zmq")
pytest.importorskip("ipykernel")

MESSAGES, BYTES = 3000, 10_000


LARGE = 128 * 1024
CONNECTION = {"transport": "ipc", "iopub_port": 2}


@contextmanager
def start_sender(folder: Path) -> Iterator[Any]:
    """Start ipykernel's thread that sends output, with the socket of a session's kernel."""
    from ipykernel.iostream import IOPubThread

    context = zmq.Context()
    publisher = bound_queue(context.socket(zmq.XPUB))
    publisher.bind(f"ipc://{folder}/k-2")
    sender = IOPubThread(publisher)
    sender.start()
    try:
        yield sender
    finally:
        sender.stop()
        sender.close()
        context.destroy(linger=0)


async def subscribe(folder: Path, sender: Any) -> KernelSocket:
    """Connect a host, and wait until its subscription has arrived."""
    socket = await KernelSocket.connect({**CONNECTION, "ip": f"{folder}/k"}, "iopub")
    reading = asyncio.create_task(socket.receive())
    while not reading.done():
        sender.send_multipart([b"first"])
        await asyncio.sleep(0.01)
    return socket


async def receive_numbers(socket: KernelSocket, count: int) -> list[int]:
    """Receive this many numbered messages."""
    numbers: list[int] = []
    while len(numbers) < count:
        frames, _ = await socket.receive()
        if frames[0].isdigit():
            numbers.append(int(frames[0]))
    return numbers


def test_a_host_that_is_busy_loses_no_output(tmp_path: Path) -> None:
    async def read(sender: Any) -> list[int]:
        def produce() -> None:
            wait_for_the_host(sender)
            for number in range(MESSAGES):
                sender.send_multipart([b"%d" % number, bytes(BYTES)])

        socket = await subscribe(tmp_path, sender)
        producing = asyncio.create_task(asyncio.to_thread(produce))
        await asyncio.sleep(0)
        time.sleep(1)  # noqa: ASYNC251 - the host does something else
        numbers = await receive_numbers(socket, MESSAGES)
        await producing
        socket.close()
        return numbers

    with start_sender(tmp_path) as sender:
        assert asyncio.run(asyncio.wait_for(read(sender), 30)) == list(range(MESSAGES))


def test_a_long_text_is_made_into_messages_as_the_host_takes_them(tmp_path: Path) -> None:
    made: list[int] = []

    async def read(sender: Any) -> list[int]:
        def flush() -> None:
            for number in range(200):
                made.append(number)
                sender.send_multipart([b"%d" % number, bytes(LARGE)])

        wait_for_the_host(sender)
        socket = await subscribe(tmp_path, sender)
        sender.schedule(flush)
        count = -1
        while count != len(made) or count < 2:  # until it waits for the host, which takes nothing
            count = len(made)
            await asyncio.sleep(0.3)
        kept = HIGH_WATER_BYTES // LARGE + 2 * MAX_WAITING_MESSAGES
        assert 1 < count < kept + 10  # those in sockets of the system
        numbers = await receive_numbers(socket, 200)
        socket.close()
        return numbers

    with start_sender(tmp_path) as sender:
        assert asyncio.run(asyncio.wait_for(read(sender), 30)) == list(range(200))
