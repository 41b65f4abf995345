"""`PlatformSessionPool` against the cci-plugins server with real kernels: nothing is lost."""

import time
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import pytest

from cci_plugins.common.limits import Limits
from cci_plugins.errors import (
    AuthenticationError,
    ConfigurationError,
    FileTooLargeError,
    PoolExhaustedError,
    PoolUnavailableError,
    SessionFileNotFoundError,
    SessionLostError,
    UnsafeNameError,
)
from cci_plugins.models import ErrorInfo, Execution, FileInfo, OutputEvent, Result
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.testing import FakeSessionPool, check_session_pool

from ._server import KEY, running_server, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
SESSION = "session-that-tests-share"


class Failing(FakeSessionPool):
    """Pool that raises the given error."""

    def __init__(self, error: Exception):
        super().__init__()
        self._error = error

    async def execute(self, session_id, code, *, timeout, on_output=None, instance=None):
        raise self._error


@pytest.fixture(scope="module")
def url():
    from cci_plugins.pools.local.pool import LocalSessionPool

    with running_server(LocalSessionPool) as url:
        yield url


@asynccontextmanager
async def over_the_wire(pool, **options):
    with anyio.fail_after(60):
        async with serving(pool, **options) as url, PlatformSessionPool(url, key=KEY) as client:
            yield client


@pytest.mark.slow
async def test_the_platform_pool_keeps_the_contract(url):
    with anyio.fail_after(110):
        async with PlatformSessionPool(url, key=KEY) as pool:
            report = await check_session_pool(pool)
    assert {check: fault for check, fault in report.items() if fault} == {}


async def test_an_execution_arrives_unchanged():
    execution = Execution(
        stdout="out \N{SNOWMAN}\n",
        stderr="err\n",
        results=(
            Result({"text/html": "<b>", "application/json": {"a": [1, None]}}),
            Result({"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}, is_main=True),
        ),
        error=ErrorInfo("ValueError", "no", "Traceback\nValueError: no"),
        files=(FileInfo("a/b.csv", 7, "text/csv", None, "00" * 32),),
        session_id="session-1",
        status="timed_out",
        state="lost",
        duration=timedelta(milliseconds=1500),
        isolation="bwrap",
        dropped_characters=3,
        notes=("the session was lost",),
    )
    events: list[OutputEvent] = []
    async with over_the_wire(FakeSessionPool(execution)) as pool:
        answer = await pool.execute("session-1", "x", timeout=SECOND, on_output=events.append)
    assert answer == execution
    assert [event.stream for event in events] == ["stdout", "stderr", "result", "result"]


async def test_the_limit_of_a_run_is_kept_by_the_server(url):
    async with PlatformSessionPool(url, key=KEY) as pool:
        begun = time.monotonic()
        with anyio.fail_after(60):
            execution = await pool.execute(SESSION, "import time; time.sleep(50)", timeout=SECOND)
        assert execution.status == "timed_out"
        assert time.monotonic() - begun < 40


async def test_cancelling_a_call_interrupts_the_code_and_keeps_the_session(url):
    with anyio.fail_after(60):
        async with PlatformSessionPool(url, key=KEY) as pool:
            minute = timedelta(seconds=60)
            await pool.execute(SESSION, "x = 41", timeout=minute)
            with anyio.move_on_after(0.5):
                await pool.execute(SESSION, "import time; time.sleep(50)", timeout=minute)
            execution = await pool.execute(SESSION, "x + 1", timeout=minute)
    assert execution.text == "42"


@pytest.mark.parametrize(
    "error",
    [
        PoolExhaustedError("all 5 are in use", hint="wait", retry_after=77.0),
        PoolUnavailableError("the pool is closed", retryable=False),
        SessionLostError("the session was deleted while this call waited for it"),
    ],
)
async def test_an_exception_of_the_served_pool_arrives_unchanged(error):
    async with over_the_wire(Failing(error)) as pool:
        with pytest.raises(type(error)) as caught:
            await pool.execute("session-1", "x", timeout=SECOND)
    arrived = caught.value
    assert (str(arrived), arrived.hint) == (str(error), error.hint)
    assert arrived.retryable == error.retryable
    assert getattr(arrived, "retry_after", None) == getattr(error, "retry_after", None)


async def test_a_wrong_key_fails_at_the_start_and_is_not_shown():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url:
            pool = PlatformSessionPool(url, key="a-wrong-key")
            with pytest.raises(AuthenticationError) as caught:
                await pool.start()
            await pool.aclose()
    assert "a-wrong-key" not in f"{caught.value!r} {pool!r} {caught.value.hint}"


async def test_a_key_that_cannot_be_a_header_is_refused_without_being_shown():
    with pytest.raises(ConfigurationError) as caught:
        PlatformSessionPool("http://127.0.0.1:9/mcp", key="sécret\n")
    assert "cret" not in str(caught.value)


async def test_a_closed_port_is_a_retryable_error(free_tcp_port):
    async with anyio.create_task_group():
        pool = PlatformSessionPool(f"http://127.0.0.1:{free_tcp_port}/mcp", key=KEY)
        with pytest.raises(PoolUnavailableError) as caught, anyio.fail_after(30):
            await pool.start()
        await pool.aclose()
    assert caught.value.retryable


async def pieces(*data: bytes):
    for piece in data:
        yield piece


async def test_files_keep_their_names_and_bytes():
    async with over_the_wire(FakeSessionPool()) as pool:
        for name in ("plain.csv", "sub/dir/ü b.txt", 'quote" & 100% #1;.txt', "content", "upload"):
            info = await pool.upload("session-1", name, pieces(b"\r\n--x\r\n", b"y"))
            assert (info.name, info.size) == (name, 8)
            data = [piece async for piece in pool.download("session-1", name)]
            assert b"".join(data) == b"\r\n--x\r\ny"
            assert [file.name for file in await pool.list_files("session-1")] == [name]
            await pool.delete_file("session-1", name)
        assert await pool.list_files("session-1") == []
        empty = await pool.upload("session-1", "empty", pieces())
        assert empty.size == 0
        assert [piece async for piece in pool.download("session-1", "empty")] in ([], [b""])


async def test_refused_files_have_their_exceptions():
    async with over_the_wire(FakeSessionPool(), limits=Limits(file_bytes=100)) as pool:
        with pytest.raises(UnsafeNameError):
            await pool.upload("session-1", "../a", pieces(b"x"))
        with pytest.raises(FileTooLargeError):
            await pool.upload("session-1", "a", pieces(b"x" * 101))
        with pytest.raises(SessionFileNotFoundError):
            await pool.delete_file("session-1", "a")
        with pytest.raises(SessionFileNotFoundError):
            assert [piece async for piece in pool.download("session-1", "a")]


async def test_the_clients_own_limit_stops_an_upload():
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 1000

    with anyio.fail_after(30):
        async with (
            serving(FakeSessionPool()) as url,
            PlatformSessionPool(url, key=KEY, limits=Limits(file_bytes=5000)) as pool,
        ):
            with pytest.raises(FileTooLargeError):
                await pool.upload("session-1", "a", endless())
            assert sent == 6
            assert await pool.list_files("session-1") == []


@pytest.mark.slow
async def test_a_large_file_can_be_uploaded_and_downloaded(url):
    block = bytes(range(256)) * 4096
    with anyio.fail_after(100):
        async with PlatformSessionPool(url, key=KEY) as pool:
            info = await pool.upload(SESSION, "large.bin", pieces(*[block] * 16))
            assert info.size == 16 * len(block)
            size = 0
            async for piece in pool.download(SESSION, "large.bin"):
                size += len(piece)
            assert size == info.size
