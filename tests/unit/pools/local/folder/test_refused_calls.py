"""A session's folder on a machine that refuses a system call halfway."""

# ruff: noqa: PTH208 - plain calls on folders of the system

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cci_plugins.errors import FileTransferError
from cci_plugins.pools.local.folder.session_folder import SessionFolder, open_all

if sys.platform == "win32":
    pytest.skip("needs descriptors of directories", allow_module_level=True)


def refuse(number: int) -> Callable[..., int]:
    def call(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


def open_null() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"))


def test_several_descriptors_are_opened_or_none() -> None:
    before = count_descriptors()
    with pytest.raises(OSError, match="Too many"):
        open_all([open_null, open_null, refuse(errno.EMFILE)])
    assert count_descriptors() == before
    for descriptor in open_all([open_null, open_null]):
        os.close(descriptor)


def test_a_refused_owner_leaves_neither_a_descriptor_nor_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = (os.getuid(), os.getgid())
    folder = SessionFolder(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), owner=owner)
    before = count_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", refuse(errno.EPERM))
        for name in ("file", "folder/file"):
            with pytest.raises(FileTransferError):
                folder.write(name, b"x")
    assert count_descriptors() == before
    assert sorted(os.listdir(tmp_path)) == ["folder"]
    folder.close()


@pytest.mark.parametrize("name", ["dup", "open", "scandir"])
def test_a_list_without_descriptors_is_an_error_and_not_empty(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    folder = SessionFolder(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse(errno.EMFILE))
        with pytest.raises(FileTransferError, match="Too many open files") as caught:
            folder.scan()
    assert "ulimit -n" in str(caught.value.hint)
    assert list(folder.scan()) == ["file"]
    folder.close()
