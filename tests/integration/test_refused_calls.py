"""A machine that refuses a system call halfway: an honest error, and nothing is left."""

# ruff: noqa: PTH115, PTH208 - plain calls on folders of the system

from __future__ import annotations

import errno
import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cci_plugins import CodeInterpreter, LocalSessionPool
from cci_plugins.errors import FileTransferError, PoolUnavailableError
from cci_plugins.pools.local.isolation import memory_cgroup, selection, uids

from ._processes import list_children

if sys.platform != "linux":
    pytest.skip("these calls are Linux's", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


class Refusal:
    """Refuses the n-th call of a function, from 0 on."""

    def __init__(self, patch: pytest.MonkeyPatch, place: Any, name: str, at: int, number: int):
        self._real: Callable[..., Any] = getattr(place, name)
        self._at, self._number = at, number
        self.is_refused = False
        patch.setattr(place, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._at -= 1
        if self._at == -1:
            self.is_refused = True
            raise OSError(self._number, os.strerror(self._number))
        return self._real(*args, **kwargs)


@pytest.fixture(params=["bwrap", "landlock"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return str(request.param)


def list_descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(name + " " + os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return {each for each in found if "/proc/" not in each}


STARTS = [
    (socket, "socketpair", 0, errno.EMFILE),
    (os, "pipe", 0, errno.EMFILE),
    (subprocess, "_fork_exec", 0, errno.EAGAIN),
    (tempfile, "mkdtemp", 0, errno.ENOSPC),
]


@pytest.mark.quick("bwrap")
async def test_a_start_that_the_system_refuses_leaves_nothing_and_works_later(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pool = LocalSessionPool(isolation=backend, ready_sessions=0, preload=())  # type: ignore[arg-type]
    async with CodeInterpreter(pool) as interpreter:
        assert (await interpreter.run_code("1 + 1")).text == "2"
        held, used = list_descriptors(), set(uids._allocated_uids)
        children = list_children()
        folders = set(os.listdir(tmp_path))
        opened = [(os, "open", at, errno.EMFILE) for at in (2, 5, 9, 12)]
        for place, name, at, number in [*STARTS, *opened]:
            session = interpreter.session(f"{name} {at}")
            with monkeypatch.context() as patch:
                refusal = Refusal(patch, place, name, at, number)
                error = None
                try:
                    await session.run_code("1")
                except PoolUnavailableError as raised:
                    error = raised
                assert error is None or (error.hint and error.retryable), f"{name} {at}"
                assert refusal.is_refused or name == "open"
            await session.delete()
            gc.collect()
            assert list_descriptors() == held, f"{name} {at}"
            assert set(uids._allocated_uids) == used, name
            assert list_children() == children, name
            assert set(os.listdir(tmp_path)) == folders, name
        assert (await interpreter.run_code("40 + 2")).text == "42"


async def test_a_shortage_never_chooses_a_weaker_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    monkeypatch.setattr(selection, "_selections", {})
    pool = LocalSessionPool(ready_sessions=0, preload=())
    async with CodeInterpreter(pool) as interpreter:
        for place, name, at, number in [*STARTS[:3], (tempfile, "mkstemp", 0, errno.ENOSPC)]:
            with monkeypatch.context() as patch:
                Refusal(patch, place, name, at, number)
                with pytest.raises(PoolUnavailableError) as caught:
                    await interpreter.start()
                assert caught.value.hint, name
        with monkeypatch.context() as patch:  # a system call that this machine does not have
            Refusal(patch, os, "memfd_create", 0, errno.ENOSYS)
            await interpreter.start()
        assert "landlock" in await interpreter.describe()


async def test_a_sandbox_without_room_for_a_process_is_not_a_weaker_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bwrap"
    text = "Can't fork for pid 1: Resource temporarily unavailable"
    script = f'[ "$1" = --version ] && echo bubblewrap 0.8.0 || {{ echo "{text}" >&2; exit 1; }}'
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(selection, "_selections", {})
    monkeypatch.setattr(shutil, "which", lambda *_, **__: str(program))
    pool = LocalSessionPool(ready_sessions=0, preload=())
    async with CodeInterpreter(pool) as interpreter:
        with pytest.raises(PoolUnavailableError, match="for pid 1") as caught:
            await interpreter.start()
        assert "ulimit -u" in str(caught.value.hint)


async def test_code_that_ran_keeps_its_result_if_its_files_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pool = LocalSessionPool(ready_sessions=0, preload=())
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session()
        await session.run_code("count = 0")
        with monkeypatch.context() as patch:
            refusal = Refusal(patch, os, "dup", 0, errno.EMFILE)
            execution = await session.run_code(
                "count += 1; open('f', 'w').write('x'); print(count)"
            )
            assert refusal.is_refused
        assert execution.stdout == "1\n"
        assert any("could not be listed" in note for note in execution.notes)
        execution = await session.run_code("print(count)")
        assert execution.stdout == "1\n"
        assert [file.name for file in execution.files] == ["f"]
        for name in ("mkdtemp", "mkdir"):
            with monkeypatch.context() as patch:
                Refusal(patch, tempfile if name == "mkdtemp" else os, name, 0, errno.ENOSPC)
                with pytest.raises(Exception, match="No space left") as caught:
                    await session.files.download("f")
            assert getattr(caught.value, "hint", None), name
        for call in (lambda: session.files.download("f"), lambda: session.save(tmp_path / "saved")):
            with monkeypatch.context() as patch:
                patch.setattr("cci_plugins.files.target.open_file", refuse)
                with pytest.raises(FileTransferError, match="No space left"):
                    await call()
        assert await session.files.download("f") == b"x"


async def test_a_memory_cgroup_is_looked_for_again_after_a_shortage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = memory_cgroup.find_cgroup_parent()
    memory_cgroup.find_cgroup_parent.cache_clear()
    with monkeypatch.context() as patch:
        Refusal(patch, Path, "read_text", 0, errno.EMFILE)
        await memory_cgroup.confine(1, list, lambda _: None)
    assert memory_cgroup.find_cgroup_parent() == expected
