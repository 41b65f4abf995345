"""Refusals of the operating system: hints, threads that do not start, temporary folders."""

import asyncio
import errno
import os
import tempfile
import threading

import anyio.to_thread
import pytest

from cci_plugins.common import event_loop
from cci_plugins.common.shortages import NO_THREAD, find_hint, find_hint_in, is_shortage
from cci_plugins.common.temporary import make_temporary_folder
from cci_plugins.common.threads import run_in_thread
from cci_plugins.common.tool_loop import ToolLoop
from cci_plugins.common.worker_lane import WorkerLane
from cci_plugins.errors import CodeInterpreterError, FileTransferError

LIMIT = 10.0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM])
def test_what_is_short_has_a_next_step(number: int) -> None:
    error = OSError(number, os.strerror(number))
    assert is_shortage(error)
    assert find_hint(error)


def test_a_full_or_missing_folder_has_a_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/scratch")
    assert is_shortage(OSError(errno.ENOSPC, "full"))
    assert "/scratch" in str(find_hint(OSError(errno.ENOSPC, "full")))
    for number in (errno.ENOENT, errno.EROFS, errno.EACCES):
        assert not is_shortage(OSError(number, "missing"))
        assert "TMPDIR" in str(find_hint(OSError(number, "missing")))
    assert find_hint(OSError(errno.EPERM, "refused")) is None


def test_a_shortage_in_the_words_of_a_program_has_a_next_step() -> None:
    text = "bwrap: Can't fork for pid 1: Resource temporarily unavailable"
    assert "ulimit -u" in str(find_hint_in(text))
    assert find_hint_in("bwrap: Creating new namespace failed: No space left on device") is None


def refuse_threads(*_: object, **__: object) -> None:
    raise RuntimeError(NO_THREAD)


@pytest.mark.anyio
async def test_short_work_is_done_where_no_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anyio.to_thread, "run_sync", refuse_threads)
    assert await run_in_thread(max, 1, 2) == 2
    assert await WorkerLane("refused").run(lambda: 42) == 42


@pytest.mark.anyio
async def test_work_that_fails_is_not_repeated() -> None:
    begun: list[int] = []

    def fail() -> None:
        begun.append(1)
        raise RuntimeError(NO_THREAD)

    with pytest.raises(RuntimeError):
        await run_in_thread(fail)
    assert begun == [1]


@pytest.mark.anyio
async def test_a_thread_that_is_refused_is_an_error_of_this_package() -> None:
    async def fail() -> None:
        refuse_threads()

    with pytest.raises(CodeInterpreterError, match="can't start new thread") as caught:
        await event_loop.dispatch(fail)
    assert caught.value.hint


def test_the_loop_of_async_tools_starts_later_if_its_thread_was_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tool_loop = ToolLoop()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_threads)
        with pytest.raises(RuntimeError):
            tool_loop.get()

    async def answer() -> int:
        return 42

    loop = tool_loop.get()
    assert asyncio.run_coroutine_threadsafe(answer(), loop).result(LIMIT) == 42
    loop.call_soon_threadsafe(loop.stop)


def test_a_full_disk_is_named_before_a_file_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(FileTransferError, match="No space left") as caught, make_temporary_folder():
        pass
    assert "TMPDIR" in str(caught.value.hint)
