"""What one session sends neither stalls the others nor fills the host, and a flood has an end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from cci_plugins import CodeInterpreter, Execution, LocalSessionPool
from cci_plugins.pools.local import kernel_reader
from cci_plugins.pools.local.kernel import FLOODED, READER_FAILED

pytest.importorskip("jupyter_client")
pytestmark = pytest.mark.anyio

HANG_SECONDS = 15  # a flood once held the others up for 19 s and more

FORGE = """
import json, threading, time
kernel = get_ipython().kernel
def forge(content, header=None, parent=None, metadata=b"{}"):
    header = dict(kernel.session.msg_header("display_data")) if header is None else header
    header = {**header, "date": ""} if isinstance(header, dict) else header
    parent = get_ipython().parent_header["header"] if parent is None else parent
    parent = {**parent, "date": ""} if isinstance(parent, dict) else parent
    parts = [json.dumps(header).encode(), json.dumps(parent).encode(), metadata, content]
    kernel.iopub_socket.send_multipart([b"<IDS|MSG>", kernel.session.sign(parts), *parts])
"""
ODD = (
    FORGE
    + """
deep = b"[" * 50_000 + b"]" * 50_000
forge(b"{}", header=[])
forge(b"{}", header={})
forge(b"{}", header={"msg_type": {"a": 1}})
forge(b"[]")
forge(b"not JSON")
forge(deep)
forge(b'{"data": {"application/json": ' + deep + b"}}")
forge(b'{"data": [1], "transient": [2]}')
forge(b'{"data": {"a": 1}, "transient": {"display_id": ["unhashable"]}}')
forge(b'{"data": {"a": ' + b"9" * 5000 + b"}}")
forge(b"{}", parent=[1])
forge(b"{}", metadata=deep)
forge(b'{"name": ["x"], "text": {"a": 1}}', header={"msg_type": "stream"})
forge(b'{"ename": {"a": 1}, "evalue": [2], "traceback": 3}', header={"msg_type": "error"})
forge(b'{"execution_state": []}', header={"msg_type": "status"})
forge(b'{"stdout": 1, "stderr": [2]}', header={"msg_type": "cci_background"})
forge(b'{"wait": "x"}', header={"msg_type": "clear_output"})
print("still here")
"""
)
KEYS = """
from IPython.display import display
for number in range(20):
    display({"application/json": {f"{number:07}" + "k" * 1_000_000: [[]] * 20_000}}, raw=True)
"""
FLOOD = (
    FORGE
    + """
big = json.dumps({"data": {"text/html": "x" * 20_000_000}, "metadata": {}}).encode()
def flood():
    while True:
        forge(big, parent={"msg_id": "nobody"})
threading.Thread(target=flood, daemon=True).start()
"""
)


# The code opens none of these sockets. It finds them, and writes below libzmq.
RAW_BYTES = """
import os, socket, stat, threading, time
frame = b"\\x03" + (40 << 20).to_bytes(8, "big") if {endless} else b"\\xff" * 70_000
def write():
    for number in range(3, 100):
        try:
            peer = socket.socket(fileno=os.dup(number))
            peer.getpeername()
        except (OSError, ValueError): continue
        if peer.family == socket.AF_UNIX and str(peer.getsockname()).find("k-") > 0:
            try: [os.write(number, frame + bytes(4000)) for _ in range(20)]
            except OSError: pass
threading.Timer(0.2, write).start()
"""
BACKENDS = [
    "auto",
    pytest.param(
        "landlock", marks=[pytest.mark.full, pytest.mark.skipif("sys.platform != 'linux'")]
    ),
]


@pytest.fixture(scope="module", params=BACKENDS)
async def interpreter(
    anyio_backend: str, request: pytest.FixtureRequest
) -> AsyncIterator[CodeInterpreter]:
    pool = LocalSessionPool(isolation=request.param, ready_sessions=0, preload=())
    async with CodeInterpreter(pool) as interpreter:
        await interpreter.session("bystander").run_code("1")
        yield interpreter


async def watch(interpreter: CodeInterpreter, work: Awaitable[Any]) -> tuple[Any, list[float]]:
    """Call another session again and again while something happens. Return its times."""
    task, times = asyncio.ensure_future(work), []
    while not task.done():
        started = time.perf_counter()
        execution = await interpreter.session("bystander").run_code("1+1")
        times.append(time.perf_counter() - started)
        assert execution.text == "2"
    return task.result(), times


async def test_odd_fields_in_signed_messages_change_nothing(interpreter: CodeInterpreter) -> None:
    session = interpreter.session("odd")
    execution = await session.run_code(ODD)
    assert "still here" in execution.stdout
    assert (await session.run_code("print(kernel is not None)")).stdout == "True\n"


@pytest.mark.skipif(sys.platform != "linux", reason="looks for sockets as on Linux")
@pytest.mark.quick("False")
@pytest.mark.parametrize("is_endless", [False, True])
async def test_raw_bytes_on_a_kernels_sockets_end_that_session_alone(
    interpreter: CodeInterpreter, *, is_endless: bool
) -> None:
    session = interpreter.session(f"raw-{is_endless}")
    code = RAW_BYTES.format(endless=is_endless) + "\ntime.sleep(30)"
    execution = await session.run_code(code, timeout=20)
    assert execution.status == "died"
    assert execution.error is not None
    assert "it sent" in execution.error.message
    assert (await session.run_code("1 + 1")).text == "2"
    assert (await interpreter.session("bystander").run_code("1 + 1")).text == "2"


@pytest.mark.full
async def test_keys_and_empty_values_count_as_results(interpreter: CodeInterpreter) -> None:
    execution = await interpreter.session("keys").run_code(KEYS)
    assert len(execution.results) < 16
    assert any("too large to keep" in note for note in execution.notes)


@pytest.mark.quick("1")
@pytest.mark.parametrize("count", [1, 4])
async def test_a_large_print_does_not_hold_up_another_session(
    interpreter: CodeInterpreter, count: int
) -> None:
    sessions = [interpreter.session(f"printer-{number}") for number in range(count)]
    await asyncio.gather(*(session.run_code("1") for session in sessions))

    async def print_much() -> tuple[list[Execution], float]:
        code = "print('sig= ' * 1_000_000)"
        started = time.perf_counter()
        executions = await asyncio.gather(
            *(session.run_code(code, on_output=lambda _: None) for session in sessions)
        )
        return executions, time.perf_counter() - started

    (executions, seconds), times = await watch(interpreter, print_much())
    assert [len(execution.stdout) for execution in executions] == [5_000_001] * count
    assert max(times) < seconds / 2  # a call that is held up takes nearly as long as the print


async def test_a_reader_that_fails_ends_the_session_with_the_reason(
    interpreter: CodeInterpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = interpreter.session("reader")
    await session.run_code("1")

    def fail(_: object) -> object:
        raise MemoryError

    monkeypatch.setattr(kernel_reader, "read_headers", fail)
    failed = await session.run_code("1 + 1")
    monkeypatch.undo()
    assert (failed.status, failed.state) == ("died", "lost")
    assert failed.error is not None
    assert READER_FAILED in failed.error.message
    assert (await session.run_code("1 + 1")).text == "2"


async def test_a_run_is_not_stopped_for_what_earlier_ones_sent(
    interpreter: CodeInterpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_reader, "RUN_FLOOD_BYTES", 3 * 1024**2)
    monkeypatch.setattr(kernel_reader, "ALLOWED_BYTES_PER_SECOND", 1)
    session = interpreter.session("printer")
    for _ in range(3):
        execution = await session.run_code("print('x' * 2_000_000)")
        assert execution.status == "succeeded", execution.error


@pytest.mark.full
async def test_a_flood_is_stopped_at_its_limit_and_ends_with_the_reason(
    interpreter: CodeInterpreter,
) -> None:
    session = interpreter.session("flood")

    async def flood() -> Execution:
        started = time.monotonic()
        execution = await session.run_code(FLOOD + "time.sleep(60)", timeout=3)
        assert execution.status in {"timed_out", "died", "failed"}, execution  # by time or bytes
        assert time.monotonic() - started < 30
        await session.delete()
        between = interpreter.session("between")
        execution = await between.run_code(FLOOD)
        if execution.state == "lost":  # it reached the limit before the run ended
            return execution
        pool = interpreter._host.pool
        for _ in range(240):  # the thread goes on between two runs
            record = pool._sessions[between.id]  # type: ignore[attr-defined]
            if record.kernel is None or not record.kernel.is_alive:
                break
            await asyncio.sleep(0.25)
        return await between.run_code("1")

    execution, times = await watch(interpreter, flood())
    assert execution.state == "lost"
    reason = " ".join((*execution.notes, execution.error.message if execution.error else ""))
    assert FLOODED in reason or "MiB of memory" in reason
    assert max(times) < HANG_SECONDS
