"""Tests of the input of `cci run`: code, scripts, notebooks and standard input."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from cci_plugins.cli.source import read_source
from cci_plugins.errors import FileTransferError


def write_notebook(path: Path, *cells: dict[str, object], language: str = "python") -> Path:
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "k", "display_name": "K", "language": language}},
        "cells": list(cells),
    }
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def code_cell(source: str, *tags: str) -> dict[str, object]:
    return {
        "cell_type": "code",
        "id": f"id-{abs(hash(source))}",
        "metadata": {"tags": list(tags)},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }


def markdown_cell(source: str) -> dict[str, object]:
    return {"cell_type": "markdown", "id": "words", "metadata": {}, "source": source}


def read_codes(target: object) -> list[str]:
    return [cell.code for cell in read_source(str(target)).cells]


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("print(1)"))
    assert read_codes("-") == ["print(1)"]


def test_an_existing_script_is_read_in_the_encoding_it_declares(tmp_path: Path) -> None:
    script = tmp_path / "a.py"
    script.write_bytes("# coding: latin-1\nx = 'é'\n".encode("latin-1"))
    assert read_codes(script) == ["# coding: latin-1\nx = 'é'\n"]


@pytest.mark.parametrize("name", ["missing.py", "missing.ipynb"])
def test_a_missing_file_is_an_error_and_not_code(name: str) -> None:
    with pytest.raises(FileTransferError, match=f"cannot read {name}") as caught:
        read_source(name)
    assert caught.value.hint


@pytest.mark.parametrize("code", ["print(6*7)", "x = 'a.py'", "import a\n# see b.py", ""])
def test_anything_else_is_code(code: str) -> None:
    assert read_codes(code) == [code]


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "a.py"
    script.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileTransferError, match="is not a Python file"):
        read_source(str(script))


def test_a_notebook_returns_its_code_cells_and_their_positions(tmp_path: Path) -> None:
    path = write_notebook(
        tmp_path / "n.ipynb",
        markdown_cell("# Title"),
        code_cell("x = 1"),
        code_cell("   "),
        code_cell("never", "skip-execution"),
        code_cell("1/0", "raises-exception"),
    )
    cells = read_source(str(path)).cells
    assert [(cell.code, cell.position, cell.may_fail) for cell in cells] == [
        ("x = 1", 1, False),
        ("1/0", 4, True),
    ]


def test_a_notebook_of_another_language_is_an_error(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", code_cell("x <- 1"), language="R")
    with pytest.raises(FileTransferError, match="notebook in R"):
        read_source(str(path))


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", '{"nbformat": 4, "cells": 3}'])
def test_a_file_that_is_not_a_notebook_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "n.ipynb"
    path.write_text(text)
    with pytest.raises(FileTransferError):
        read_source(str(path))
