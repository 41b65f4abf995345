"""Downloads are written inside their folder, whole or not at all, and replace files on request."""

from __future__ import annotations

import io
import os
import tempfile
import unicodedata
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.examples import examples

from cci_plugins.common.file_names import (
    MAX_NAME_BYTES,
    MAX_PART_BYTES,
    normalize_new_name,
    parse_url_file_name,
)
from cci_plugins.errors import (
    FileTooLargeError,
    FileTransferError,
    TargetExistsError,
    UnsafeNameError,
)
from cci_plugins.files import source as sources
from cci_plugins.files.source import PathSource, SpooledSource, get_default_name, make_source
from cci_plugins.files.target import create_file, resolve_in_folder, resolve_target

PARTS = st.one_of(
    st.sampled_from(["..", ".", "", "~", "...", " ", "a ", "con", "NUL.txt", "a:b", "C:", "-rf"]),
    st.sampled_from(["../..", "\\..\\", "a\\b", "\0", "a\nb", "\x85", "\u202eexe", "\ud800"]),
    st.sampled_from(["e\u0301", "\u00e9", "\u2024\u2024", "\uff0e\uff0e", "\uff0f", "x" * 256]),
    st.text(max_size=12),
    st.text(st.characters(), max_size=40),
)
NAMES = st.tuples(
    st.sampled_from(["", "", "", "/", "//", "~/", "C:\\", "\\\\server\\share\\"]),
    st.lists(PARTS, min_size=1, max_size=5).map("/".join),
).map("".join)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder with their bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@examples(500)
@given(NAMES)
@example("../outside/kept.txt")
@example("in/../../outside/kept.txt")
@example("taken.txt")
@example("link/x")
@example("link")
@example("a/b/c")
def test_every_name_is_refused_or_stays_in_the_folder(name):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        inside, outside = root / "in", root / "outside"
        inside.mkdir()
        outside.mkdir()
        (outside / "kept.txt").write_bytes(b"kept")
        (inside / "taken.txt").write_bytes(b"taken")
        (inside / "link").symlink_to(outside)
        try:
            path = resolve_in_folder(inside, name)
            with create_file(path, overwrite=False) as part:
                part.write_bytes(b"new")
        except FileTransferError as error:
            assert tree(inside) == {"taken.txt": b"taken"}
            assert str(error).encode()  # noqa: PT017 - it can be shown
        else:
            assert path.resolve().is_relative_to(inside)
            assert path.read_bytes() == b"new"
            assert len(tree(inside)) == 2
        assert tree(outside) == {"kept.txt": b"kept"}
        assert tree(inside)["taken.txt"] == b"taken"
        assert sorted(path.name for path in root.iterdir()) == ["in", "outside"]


@given(NAMES)
def test_a_new_name_is_refused_or_stable(name):
    try:
        found = normalize_new_name(name)
    except UnsafeNameError:
        return
    assert found == normalize_new_name(found) == unicodedata.normalize("NFC", name)
    parts = found.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert all(len(part.encode()) <= MAX_PART_BYTES for part in parts)
    assert len(found.encode()) <= MAX_NAME_BYTES + len(parts)
    assert not [char for char in found if unicodedata.category(char) in {"Cc", "Cs"}]


RESERVED = ["con", "NUL", "aux.txt", "Com1", "lpt9.tar.gz", "COM\u00b9", "CONIN$", "con .txt"]
RESERVED += ["a.", "a ", "sub./x", "C:evil.exe", "sub/c:x", "\u202egpj.exe", "a\x9bb", "\u2066a"]


@pytest.mark.parametrize("name", RESERVED, ids=ascii)
def test_a_name_that_some_system_reserves_is_refused(name):
    with pytest.raises(UnsafeNameError):
        normalize_new_name(name)


@pytest.mark.parametrize(
    "name", ["12:30.png", "console.txt", "com10", "\U0001f469\u200d\U0001f52c"]
)
def test_ordinary_names_are_accepted(name):
    assert normalize_new_name(name) == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/c/a%20b.csv", "a b.csv"),
        ("/c/%2e%2e", ".."),
        ("/c/..%2f..%2fetc%2fpasswd", "passwd"),
        ("/c/", ""),
        ("", ""),
    ],
)
def test_the_file_name_of_a_url_is_its_last_part(path, name):
    assert parse_url_file_name(path) == name


def test_a_folder_is_recognised_by_its_existence_or_a_slash(tmp_path):
    assert resolve_target(tmp_path, "sub/a.txt") == tmp_path / "a.txt"
    assert resolve_target(f"{tmp_path}/new/", "a.txt") == tmp_path / "new" / "a.txt"
    assert resolve_target(tmp_path / "b.txt", "a.txt") == tmp_path / "b.txt"
    with pytest.raises(UnsafeNameError):
        resolve_target(tmp_path, "sub/..")
    with pytest.raises(UnsafeNameError):
        resolve_target(tmp_path, "nul")


def test_links_on_the_way_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "link").symlink_to(outside)
    (folder / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("deep/link/x", "dangling/x", "deep/link/more/x"):
        with pytest.raises(FileTransferError, match="link"):
            resolve_in_folder(folder, name)
    for name in ("dangling", "deep/link"):
        with (
            pytest.raises(TargetExistsError),
            create_file(resolve_in_folder(folder, name), overwrite=False),
        ):
            raise AssertionError("it must not begin")
    with create_file(resolve_in_folder(folder, "dangling"), overwrite=True) as part:
        part.write_bytes(b"new")
    assert not (folder / "dangling").is_symlink()
    assert not (tmp_path / "nowhere").exists()
    assert tree(outside) == {}


@pytest.mark.parametrize("links", [True, False], ids=["hardlinks", "no-hardlinks"])
@pytest.mark.parametrize("taken", ["file", "link", "folder"])
def test_a_target_that_appeared_meanwhile_is_not_replaced(tmp_path, monkeypatch, links, taken):
    if not links:

        def refuse(*_):
            raise PermissionError(1, "no links here")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    target = tmp_path / "out" / "a.txt"
    with pytest.raises(TargetExistsError), create_file(target, overwrite=False) as part:  # noqa: PT012
        part.write_bytes(b"new")
        if taken == "file":
            target.write_bytes(b"another's")
        elif taken == "link":
            target.symlink_to(tmp_path / "nowhere")
        else:
            target.mkdir()
    assert list(target.parent.iterdir()) == [target]
    assert not (tmp_path / "nowhere").exists()
    if taken == "file":
        assert target.read_bytes() == b"another's"


def test_a_file_arrives_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with create_file(tmp_path / "a", overwrite=False) as part:
        part.write_bytes(b"new")
    assert tree(tmp_path) == {"a": b"new"}


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError, FileTransferError])
def test_a_failure_half_way_leaves_nothing(tmp_path, overwrite, error):
    target = tmp_path / "a.txt"
    if overwrite:
        target.write_bytes(b"old")
    with pytest.raises(FileTransferError if error is OSError else error):  # noqa: PT012
        with create_file(target, overwrite=overwrite) as part:
            part.write_bytes(b"half")
            assert target.exists() is overwrite
            raise error("planted")
    assert tree(tmp_path) == ({"a.txt": b"old"} if overwrite else {})
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_target_that_cannot_be_written_raises_a_transfer_error(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    for target in (tmp_path / "file" / "x", tmp_path / "folder"):
        with pytest.raises(FileTransferError), create_file(target, overwrite=True) as part:
            part.write_bytes(b"new")
    assert tree(tmp_path) == {"file": b"x"}
    assert (tmp_path / "folder" / "sub").is_dir()


def test_a_reader_sees_only_the_old_or_the_new_file(tmp_path):
    target = tmp_path / "a"
    target.write_bytes(b"old")
    with target.open("rb") as reader, create_file(target, overwrite=True) as part:
        part.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert reader.closed


# sources


async def read(source) -> bytes:
    return b"".join([piece async for piece in source.chunks()])


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A folder for temporary copies."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.anyio
async def test_every_kind_of_content_can_be_read_twice_and_is_released(tmp_path, temporary):
    async def chunks():
        yield b"ab"
        yield b"c"

    (tmp_path / "a").write_bytes(b"abc")
    for content in (b"abc", tmp_path / "a", str(tmp_path / "a"), io.BytesIO(b"abc"), chunks()):
        source = await make_source(content, limit=3)
        assert (source.size, await read(source), await read(source)) == (3, b"abc", b"abc")
        assert source.is_unchanged()
        async with source.path() as path:
            assert path.read_bytes() == b"abc"
        source.close()
    assert list(temporary.iterdir()) == []
    assert (tmp_path / "a").exists()


@pytest.mark.anyio
async def test_content_that_cannot_be_uploaded_leaves_nothing(tmp_path, temporary):
    async def large():
        for _ in range(5):
            yield b"xx"

    async def text():
        yield "text"

    async def fails():
        yield b"x"
        raise RuntimeError("theirs")

    closed = io.BytesIO(b"x")
    closed.close()
    os.mkfifo(tmp_path / "fifo")
    wrong = [io.StringIO("x"), text(), tmp_path / "none", tmp_path / "fifo", 5, closed]
    wrong += ["a\0b", "", "/dev/null", Path("x" * 5000)]
    for content in wrong:
        with pytest.raises(FileTransferError) as caught:
            await make_source(content, limit=9)
        assert str(caught.value).isprintable()
    with pytest.raises(FileTransferError):
        get_default_name("")
    for content in (large(), io.BytesIO(b"x" * 10)):
        with pytest.raises(FileTooLargeError):
            await make_source(content, limit=9)
    with pytest.raises(RuntimeError, match="theirs"):
        await make_source(fails(), limit=9)
    assert list(temporary.iterdir()) == []


@pytest.mark.anyio
async def test_a_changed_file_is_detected(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    source = await make_source(path, limit=9)
    assert isinstance(source, PathSource)
    path.write_bytes(b"abcd")
    assert not source.is_unchanged()
    path.unlink()
    with pytest.raises(FileTransferError):
        source.is_unchanged()
    with pytest.raises(FileTransferError):
        await read(source)


@pytest.mark.anyio
async def test_a_folder_is_packed_without_the_targets_of_links(tmp_path, temporary, monkeypatch):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x").write_bytes(b"x")
    (folder / "to-file").symlink_to("/etc/passwd")
    (folder / "to-folder").symlink_to("/etc")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "fifo")
    assert get_default_name(folder) == "folder.zip"
    source = await make_source(folder, limit=1000)
    assert isinstance(source, SpooledSource)
    with zipfile.ZipFile(io.BytesIO(await read(source))) as packed:
        assert packed.namelist() == ["sub/x"]
    source.close()
    with pytest.raises(FileTooLargeError):
        await make_source(folder, limit=0)
    monkeypatch.setattr(sources, "MAX_FOLDER_FILES", 0)
    with pytest.raises(FileTooLargeError, match="pack it yourself"):
        await make_source(folder, limit=1000)
    assert list(temporary.iterdir()) == []


@pytest.mark.anyio
async def test_a_folder_is_packed_without_names_that_are_not_utf_8(tmp_path, caplog):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    os.close(os.open(os.fsencode(folder) + b"/\xff", os.O_CREAT))
    source = await make_source(folder, limit=1000)
    packed = b"".join([chunk async for chunk in source.chunks()])
    assert zipfile.ZipFile(io.BytesIO(packed)).namelist() == ["a.txt"]
    assert "not UTF-8" in caplog.text
    source.close()


@pytest.mark.anyio
async def test_a_folder_that_cannot_be_read_is_refused(tmp_path, temporary, monkeypatch):
    scan = os.scandir

    def shut(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    (tmp_path / "other" / "shut").mkdir(parents=True)
    monkeypatch.setattr(os, "scandir", shut)
    with pytest.raises(FileTransferError, match="Permission denied"):
        await make_source(tmp_path / "other", limit=1000)
    monkeypatch.undo()
    assert list(temporary.iterdir()) == []


def test_no_file_is_left_open(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with create_file(tmp_path / "a", overwrite=False) as part:
            part.write_bytes(b"x")
