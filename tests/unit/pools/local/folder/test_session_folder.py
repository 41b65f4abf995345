"""Tests of a session's folder that untrusted code changes at the same time."""

import contextlib
import os
import sys
from pathlib import Path

import pytest

from cci_plugins.errors import (
    FileTooLargeError,
    FileTransferError,
    SessionFileNotFoundError,
    UnsafeNameError,
)
from cci_plugins.pools.local.folder.path_folder import PathFolder
from cci_plugins.pools.local.folder.session_folder import MAX_DEPTH, SessionFolder
from cci_plugins.pools.local.folder.writer import TEMPORARY_PREFIX

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs descriptors of directories")


@pytest.fixture(params=["descriptor", "path"])
def folder(request, tmp_path):
    root = tmp_path / "session"
    root.mkdir()
    if request.param == "path":
        opened = PathFolder(root)
    elif sys.platform == "win32":
        pytest.skip("needs descriptors of directories")
    else:
        opened = SessionFolder(os.open(root, os.O_RDONLY | os.O_DIRECTORY))
    yield opened
    opened.close()


@pytest.fixture
def root(folder, tmp_path):
    return tmp_path / "session"


@pytest.fixture
def strict(tmp_path):
    """A folder by descriptor, whose guarantees also hold against links."""
    root = tmp_path / "strict"
    root.mkdir()
    opened = SessionFolder(os.open(root, os.O_RDONLY | os.O_DIRECTORY), capacity=1000)
    yield opened, root
    opened.close()


def test_a_written_file_can_be_read(folder, root):
    state = folder.write("a/b/c.txt", b"hello")
    assert state.size == 5
    assert b"".join(folder.read("a/b/c.txt", chunk_bytes=2)) == b"hello"
    assert folder.stat("a/b/c.txt") == state
    assert (root / "a/b/c.txt").read_bytes() == b"hello"


def test_a_file_becomes_visible_when_it_is_complete(folder, root):
    folder.write("f", b"old")
    with folder.create("f") as writer:
        writer.write(b"ne")
        assert b"".join(folder.read("f")) == b"old"
        assert list(folder.scan()) == ["f"]
        writer.write(b"w")
    assert b"".join(folder.read("f")) == b"new"


def test_an_aborted_file_leaves_nothing(folder, root):
    def fail():
        with folder.create("f") as writer:
            writer.write(b"x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(root.iterdir()) == []


def test_aborting_twice_does_nothing(folder, root):
    writer = folder.create("f")
    writer.write(b"x")
    writer.abort()
    assert list(root.iterdir()) == []
    writer.abort()


def test_a_removed_file_is_missing(folder):
    folder.write("f", b"x")
    folder.remove("f")
    with pytest.raises(SessionFileNotFoundError):
        folder.remove("f")
    assert folder.scan() == {}


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", "a/../../x", "a\\b", "a\0b"])
def test_names_that_leave_the_folder_are_rejected(folder, name):
    for call in (folder.open_read, folder.remove, folder.create):
        with pytest.raises(UnsafeNameError):
            call(name)


def test_a_missing_file_raises_not_found(folder):
    folder.write("file", b"")
    for name in ("none", "none/none"):
        with pytest.raises(SessionFileNotFoundError):
            folder.open_read(name)


def test_a_folder_is_not_a_file(folder):
    folder.write("a/b", b"")
    with pytest.raises(SessionFileNotFoundError):
        folder.open_read("a")


def test_writing_below_a_file_or_over_a_folder_fails(folder):
    folder.write("a/b", b"")
    with pytest.raises(FileTransferError):
        folder.write("a/b/c", b"")
    with pytest.raises(FileTransferError):
        folder.write("a", b"")
    assert list(folder.scan()) == ["a/b"]


def test_a_scan_is_bounded(folder):
    for number in range(10):
        folder.write(f"{number}", b"")
    assert len(folder.scan(limit=4)) == 4
    assert len(folder.scan()) == 10


def test_a_scan_distinguishes_versions_of_a_file(folder):
    folder.write("f", b"1")
    before = folder.scan()
    folder.write("f", b"2")
    assert folder.scan() != before


def test_usage_counts_bytes_and_files(folder):
    folder.write("a/f", b"x" * 10_000)
    size, count = folder.measure_usage()
    assert size >= 10_000
    assert 1 <= count <= 2
    for number in range(5):
        folder.write(f"{number}", b"")
    assert folder.measure_usage(limit=3)[1] == 4


@posix
def test_links_are_not_read_followed_or_listed(strict, tmp_path):
    folder, root = strict
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "file").symlink_to(outside / "secret")
    (root / "link").symlink_to(outside)
    for name in ("file", "link/secret"):
        with pytest.raises(SessionFileNotFoundError):
            folder.open_read(name)
    for name in ("link/new", "link/deep/new"):
        with pytest.raises(FileTransferError):
            folder.write(name, b"x")
    with pytest.raises(SessionFileNotFoundError):
        folder.remove("link/secret")
    assert folder.scan() == {}
    folder.remove("file")
    folder.write("file2", b"x")
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


@posix
@pytest.mark.timeout(60)
def test_a_fifo_does_not_hang_the_host(strict):
    folder, root = strict
    os.mkfifo(root / "pipe")
    with pytest.raises(SessionFileNotFoundError):
        folder.open_read("pipe")
    assert folder.scan() == {}
    folder.write("pipe", b"now a file")
    assert b"".join(folder.read("pipe")) == b"now a file"


@posix
def test_a_file_above_the_capacity_is_rejected(strict):
    folder, root = strict
    with pytest.raises(FileTooLargeError) as caught:
        folder.write("f", b"x" * 1001)
    assert (caught.value.size, caught.value.limit) == (1001, 1000)
    assert list(root.iterdir()) == []


@posix
def test_a_full_disk_raises_file_too_large(strict, monkeypatch):
    folder, root = strict

    def raise_disk_full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cci_plugins.pools.local.folder.writer.os.write", raise_disk_full)
    with pytest.raises(FileTooLargeError, match="disk is full"):
        folder.write("f", b"x")
    monkeypatch.undo()
    assert list(root.iterdir()) == []


@posix
def test_entries_count_at_any_depth_but_are_listed_to_a_limit(strict):
    folder, root = strict
    deep = root / ("d/" * (MAX_DEPTH + 3))
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"x" * 10_000)
    folder.write("f", b"x")
    assert list(folder.scan()) == ["f"]
    size, count = folder.measure_usage(limit=500)
    assert count == MAX_DEPTH + 5
    assert size >= 10_000


@posix
def test_the_bytes_of_a_file_count_once_whatever_the_number_of_its_names(strict):
    folder, root = strict
    (root / "f").write_bytes(b"x" * 1_000_000)
    for number in range(20):
        (root / f"link-{number}").hardlink_to(root / "f")
    size, count = folder.measure_usage()
    assert count == 21
    assert 1_000_000 <= size < 1_100_000


@posix
def test_names_and_modes_hide_nothing_from_the_measurement(strict):
    folder, root = strict
    (root / f"{TEMPORARY_PREFIX}1").mkdir()
    (root / f"{TEMPORARY_PREFIX}1" / "f").write_bytes(b"x" * 10_000)
    (root / "closed").mkdir()
    (root / "closed" / "f").write_bytes(b"x" * 10_000)
    (root / "closed").chmod(0o300)
    size, count = folder.measure_usage()
    assert count == 4
    assert size >= 20_000
    if sys.platform == "linux":
        (root / "closed").chmod(0o300)
        folder.measure_usage()


@posix
def test_a_folder_that_moves_during_the_measurement_does_not_end_it(strict, monkeypatch):
    folder, root = strict
    for name in ("a/b/c", "d", "e/f", "g"):
        (root / name).mkdir(parents=True)
    scandir, moved = os.scandir, []

    def move_while_inside(descriptor):
        entries = list(scandir(descriptor))
        if not moved and (root / "a/b").exists() and os.fstat(descriptor).st_ino == inode:
            (root / "a/b").rename(root / "e/b")
            moved.append(1)
        return contextlib.nullcontext(iter(entries))

    inode = (root / "a/b/c").stat().st_ino
    monkeypatch.setattr("cci_plugins.pools.local.folder.usage.os.scandir", move_while_inside)
    assert folder.measure_usage()[1] >= 7
    assert moved


@posix
def test_files_without_a_name_are_added(tmp_path):
    folder = SessionFolder(
        os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), measure_nameless=lambda: (5_000, 3)
    )
    assert folder.measure_usage() == (5_000, 3)
    folder.close()


@posix
def test_temporary_files_are_not_listed(strict):
    folder, root = strict
    (root / f"{TEMPORARY_PREFIX}1").write_bytes(b"x")
    assert folder.scan() == {}


@posix
def test_a_closed_folder_raises_that_the_session_has_ended(strict):
    folder, _ = strict
    folder.close()
    folder.close()
    with pytest.raises(FileTransferError, match="session has ended"):
        folder.open_read("f")
    with pytest.raises(FileTransferError, match="session has ended"):
        folder.scan()


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can chown")
def test_created_files_belong_to_the_owner(tmp_path):
    folder = SessionFolder(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), owner=(20_001, 20_002))
    folder.write("a/b", b"x")
    folder.close()
    for path in (tmp_path / "a", tmp_path / "a/b"):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (20_001, 20_002)


def list_open_files(root):
    """List those of a folder. Other threads of this process open and close files, too."""
    opened = []
    for descriptor in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").exists() else ():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith(str(root)):
            opened.append(target)
    return sorted(opened)


@posix
def test_no_descriptor_is_left_open(strict):
    folder, root = strict
    before = list_open_files(root)
    folder.write("a/b/c", b"x")
    folder.scan()
    folder.measure_usage()
    list(folder.read("a/b/c"))
    for name in ("none", "a", "a/b/c/d"):
        with pytest.raises(FileTransferError):
            folder.open_read(name)
    assert list_open_files(root) == before
