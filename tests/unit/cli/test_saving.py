"""Where images and downloaded files go."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from cci_plugins.cli.saving import Saver, match_files
from cci_plugins.errors import FileTransferError, SessionFileNotFoundError, UnsafeNameError
from cci_plugins.files.target import create_file
from cci_plugins.models import FileInfo, Result

PNG = Result({"image/png": b64encode(b"\x89PNG").decode(), "text/plain": "<Figure>"})
SVG = Result({"image/svg+xml": "<svg/>"})


def files(*names: str) -> list[FileInfo]:
    return [FileInfo(name, 1) for name in names]


def bring(path: Path) -> None:
    with create_file(path, overwrite=False) as part:
        part.write_bytes(b"1")


def test_images_are_numbered_and_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "image-1.png").write_text("mine")
    saver = Saver(tmp_path)
    assert saver.save_image(PNG) == tmp_path / "image-2.png"
    assert saver.save_image(SVG) == tmp_path / "image-3.svg"
    assert (tmp_path / "image-1.png").read_text() == "mine"
    assert (tmp_path / "image-2.png").read_bytes() == b"\x89PNG"


def test_a_result_without_an_image_saves_nothing(tmp_path: Path) -> None:
    saver = Saver(tmp_path / "new")
    assert saver.save_image(Result({"text/plain": "42"})) is None
    assert saver.save_image(Result({"image/png": "%%%not base64"})) is None
    assert not (tmp_path / "new").exists()


def test_a_downloaded_file_keeps_its_name_and_folder(tmp_path: Path) -> None:
    assert Saver(tmp_path).save_file("a/b.csv", bring) == tmp_path / "a" / "b.csv"


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    names = [saver.save_file("b.csv", bring).name for _ in range(3)]
    assert names == ["b.csv", "b-1.csv", "b-2.csv"]


def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeNameError):
        Saver(tmp_path).save_file("../b.csv", bring)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileTransferError, match="cannot write into"):
        Saver(tmp_path / "file").save_image(PNG)


def test_a_pattern_means_names_and_skips_hidden_ones() -> None:
    listed = files("a.csv", "sub/b.csv", ".profile", "sub/.c.csv", "d.txt")
    assert match_files(listed, "*.csv") == ["a.csv", "sub/b.csv"]
    assert match_files(listed, "*") == ["a.csv", "sub/b.csv", "d.txt"]
    assert match_files(listed, ".prof*") == [".profile"]


def test_a_pattern_that_means_nothing_is_an_error_that_names_what_is_there() -> None:
    with pytest.raises(SessionFileNotFoundError, match=r"'\*\.csv'") as caught:
        match_files(files("d.txt"), "*.csv")
    assert caught.value.hint == "files there: d.txt"
