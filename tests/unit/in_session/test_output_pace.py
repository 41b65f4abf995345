"""Tests of output at the pace of the host, with ipykernel's own thread and sockets of libzmq."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from cci_plugins.in_session.output_pace import wait_for_the_host
from cci_plugins.pools.local.kernel_socket import KernelSocket

zmq = pytest.importorskip("zmq")
pytest.importorskip("ipykernel")

MESSAGES, BYTES = 3000, 10_000


def test_a_host_that_is_busy_loses_no_output(tmp_path: Path) -> None:
    from ipykernel.iostream import IOPubThread

    context = zmq.Context()
    publisher = context.socket(zmq.XPUB)
    publisher.bind(f"ipc://{tmp_path}/k-2")
    sender = IOPubThread(publisher)
    sender.start()

    def produce() -> None:
        wait_for_the_host(sender)
        for number in range(MESSAGES):
            sender.send_multipart([b"%d" % number, bytes(BYTES)])

    async def read() -> list[int]:
        connection = {"transport": "ipc", "ip": f"{tmp_path}/k", "iopub_port": 2}
        socket = await KernelSocket.connect(connection, "iopub")
        reading = asyncio.create_task(socket.receive())
        while not reading.done():  # until the subscription has arrived
            sender.send_multipart([b"first"])
            await asyncio.sleep(0.01)
        producing = asyncio.create_task(asyncio.to_thread(produce))
        await asyncio.sleep(0)
        time.sleep(1)  # noqa: ASYNC251 - the host does something else
        numbers: list[int] = []
        while len(numbers) < MESSAGES:
            frames, _ = await socket.receive()
            if frames[0].isdigit():
                numbers.append(int(frames[0]))
        await producing
        socket.close()
        return numbers

    try:
        assert asyncio.run(asyncio.wait_for(read(), 30)) == list(range(MESSAGES))
    finally:
        sender.stop()
        sender.close()
        context.destroy(linger=0)
