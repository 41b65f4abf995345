"""Tests of what `cci run` saves: images, downloaded files and executed notebooks."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import nbformat
import pytest

from cci_plugins.cli.saving import Saver, insert_outputs, match_files
from cci_plugins.core.notebook import Notebook
from cci_plugins.errors import FileTransferError, SessionFileNotFoundError, UnsafeNameError
from cci_plugins.files.target import create_file
from cci_plugins.models import Execution, FileInfo, Result

PNG = Result({"image/png": b64encode(b"\x89PNG").decode(), "text/plain": "<Figure>"})
SVG = Result({"image/svg+xml": "<svg/>"})


def files(*names: str) -> list[FileInfo]:
    return [FileInfo(name, 1) for name in names]


def fetch(path: Path) -> None:
    with create_file(path, overwrite=False) as part:
        part.write_bytes(b"1")


def test_images_are_numbered_and_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "image-1.png").write_text("mine")
    saver = Saver(tmp_path)
    assert saver.save_image(PNG) == tmp_path / "image-2.png"
    assert saver.save_image(SVG) == tmp_path / "image-3.svg"
    assert (tmp_path / "image-1.png").read_text() == "mine"
    assert (tmp_path / "image-2.png").read_bytes() == b"\x89PNG"


def test_images_replace_existing_ones_on_request(tmp_path: Path) -> None:
    (tmp_path / "image-1.png").write_text("old")
    saver = Saver(tmp_path, overwrite=True)
    assert [saver.save_image(PNG), saver.save_image(PNG)] == [
        tmp_path / "image-1.png",
        tmp_path / "image-2.png",
    ]
    assert (tmp_path / "image-1.png").read_bytes() == b"\x89PNG"


def test_a_result_without_an_image_saves_nothing(tmp_path: Path) -> None:
    saver = Saver(tmp_path / "new")
    assert saver.save_image(Result({"text/plain": "42"})) is None
    assert saver.save_image(Result({"image/png": "%%%not base64"})) is None
    assert not (tmp_path / "new").exists()


def test_a_downloaded_file_keeps_its_name_and_folder(tmp_path: Path) -> None:
    assert Saver(tmp_path).save_file("a/b.csv", fetch) == tmp_path / "a" / "b.csv"


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    names = [saver.save_file("b.csv", fetch).name for _ in range(3)]
    assert names == ["b.csv", "b-1.csv", "b-2.csv"]


def test_a_name_outside_the_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UnsafeNameError):
        Saver(tmp_path).save_file("../b.csv", fetch)


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileTransferError, match="cannot write"):
        Saver(tmp_path / "file").save_image(PNG)


def test_a_pattern_matches_names_and_skips_hidden_ones() -> None:
    listed = files("a.csv", "sub/b.csv", ".profile", "sub/.c.csv", "d.txt")
    assert match_files(listed, "*.csv") == ["a.csv", "sub/b.csv"]
    assert match_files(listed, "*") == ["a.csv", "sub/b.csv", "d.txt"]
    assert match_files(listed, ".prof*") == [".profile"]


def test_a_pattern_without_a_match_is_an_error_that_lists_the_files() -> None:
    with pytest.raises(SessionFileNotFoundError, match=r"'\*\.csv'") as caught:
        match_files(files("d.txt"), "*.csv")
    assert caught.value.hint == "files in the session: d.txt"


def build_notebook(*cells: Any) -> Any:
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return notebook


def test_outputs_are_inserted_and_old_ones_removed() -> None:
    old = nbformat.v4.new_output("stream", text="old")
    notebook = build_notebook(
        nbformat.v4.new_markdown_cell("# Title"),
        nbformat.v4.new_code_cell("print(1)", outputs=[old], execution_count=9),
        nbformat.v4.new_code_cell("print(2)", outputs=[old], execution_count=10),
    )
    history = Notebook()
    history.add("print(1)", Execution(stdout="1\n"))
    text = insert_outputs(notebook, history.to_json(), [1])
    result = nbformat.reads(text, as_version=4)
    nbformat.validate(result)
    assert [cell.cell_type for cell in result.cells] == ["markdown", "code", "code"]
    assert result.cells[0].source == "# Title"
    assert result.cells[1].outputs[0].text == "1\n"
    assert result.cells[2].outputs == []
    assert notebook.cells[1].outputs[0].text == "old", "the notebook that was read is not changed"


def test_a_history_without_its_oldest_runs_still_matches() -> None:
    notebook = build_notebook(*(nbformat.v4.new_code_cell(f"print({n})") for n in range(3)))
    history = Notebook()
    for number in (1, 2):
        history.add(f"print({number})", Execution(stdout=f"{number}\n"))
    result = nbformat.reads(insert_outputs(notebook, history.to_json(), [0, 1, 2]), as_version=4)
    assert [[output.text for output in cell.outputs] for cell in result.cells] == [
        [],
        ["1\n"],
        ["2\n"],
    ]
