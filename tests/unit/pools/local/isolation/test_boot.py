"""Tests of what the first program of a session changes in ipykernel."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cci_plugins.pools.local.isolation.launcher import boot

zmq = pytest.importorskip("zmq")
pytest.importorskip("tornado")


def test_a_request_that_comes_during_a_reply_is_read(tmp_path: Path) -> None:
    from tornado.ioloop import IOLoop
    from zmq.eventloop.zmqstream import ZMQStream

    context = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.bind(f"ipc://{tmp_path}/k")
    dealer.connect(f"ipc://{tmp_path}/k")
    requests: list[list[bytes]] = []

    async def wait_for_requests(count: int) -> None:
        while len(requests) < count:
            await asyncio.sleep(0.01)

    async def talk() -> None:
        stream = ZMQStream(router, IOLoop.current())
        manager: Any = SimpleNamespace(_shell_socket=router)  # as in ipykernel 7.0 to 7.3
        kernel = SimpleNamespace(
            shell_stream=stream,
            control_stream=None,
            shell_channel_thread=SimpleNamespace(manager=manager),
        )
        boot.keep_sockets_in_their_threads(kernel)
        stream.on_recv(requests.append, copy=True)
        dealer.send(b"first")
        await wait_for_requests(1)
        await asyncio.sleep(0.05)  # the stream has seen that there is no other
        dealer.send(b"second")
        time.sleep(0.2)  # noqa: ASYNC251 - it arrives while this thread does something else
        manager._shell_socket.send_multipart([requests[0][0], b"reply"])
        await wait_for_requests(2)
        assert await asyncio.to_thread(dealer.recv) == b"reply"
        stream.close()

    dealer.setsockopt(zmq.RCVTIMEO, 10_000)
    try:
        asyncio.run(asyncio.wait_for(talk(), 20))
    finally:
        context.destroy(linger=0)
    assert [request[-1] for request in requests] == [b"first", b"second"]


@pytest.mark.parametrize("shell", [None, SimpleNamespace(manager=SimpleNamespace())])
def test_other_versions_of_ipykernel_keep_their_way_to_reply(shell: Any) -> None:
    kernel = SimpleNamespace(shell_stream=None, control_stream=None, shell_channel_thread=shell)
    boot.keep_sockets_in_their_threads(kernel)
    assert shell is None or not vars(shell.manager)


def test_ipykernel_starts_without_its_debugger_and_the_users_code_can_import_one() -> None:
    program = (
        "from importlib import import_module\n"
        "from importlib.util import module_from_spec, spec_from_file_location\n"
        f"spec = spec_from_file_location('boot', {boot.__file__!r})\n"
        "boot = module_from_spec(spec)\n"
        "spec.loader.exec_module(boot)\n"
        "with boot.without_debugger():\n"
        "    debugger = import_module('ipykernel.debugger')\n"
        "print(debugger._is_debugpy_available)\n"
        "import debugpy\n"
    )
    run = [sys.executable, "-I", "-Xfrozen_modules=off", "-c", program]
    assert subprocess.check_output(run, text=True, timeout=60) == "False\n"
