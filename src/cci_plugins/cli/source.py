"""Input of `cci run`: code, a script, a notebook or standard input."""

from __future__ import annotations

import sys
import tokenize
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cci_plugins.errors import ConfigurationError, FileTransferError
from cci_plugins.in_session.script_comment import append_script

if TYPE_CHECKING:
    from nbformat import NotebookNode

STDIN = "-"


@dataclass(frozen=True, slots=True)
class Cell:
    """Code that is run as one execution.

    Attributes:
        code: Python source.
        may_fail: Whether the next cell runs even if this one raises (the notebook tag
            `raises-exception`).
        position: Index of the cell in the notebook, or None outside of a notebook.
        script: Name and arguments of the script. Empty for other code.
    """

    code: str
    may_fail: bool = False
    position: int | None = None
    script: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The code to send, with the script's name and arguments."""
        return append_script(self.code, self.script) if self.script else self.code


@dataclass(frozen=True, slots=True)
class RunInput:
    """Cells to run, in order, and the notebook that contains them."""

    cells: tuple[Cell, ...]
    notebook: NotebookNode | None = None


def read_source(target: str, arguments: Sequence[str] = ()) -> RunInput:
    """Read the input that a command-line argument stands for.

    Args:
        target: `-` for standard input, a file name that ends in `.py` or `.ipynb`, or code.
        arguments: Values that the code finds in `sys.argv` after its name.

    Raises:
        ConfigurationError: The target is a notebook, which takes no arguments.
        FileTransferError: The file is missing, unreadable, or does not have the format that
            its name suggests.
    """
    if target == STDIN:
        return RunInput((_build_script(sys.stdin.read(), STDIN, arguments),))
    if "\n" in target or not target.endswith((".py", ".ipynb")):
        return RunInput((_build_script(target, "-c", arguments),))
    if arguments and target.endswith(".ipynb"):
        raise ConfigurationError(
            f"{target} is a notebook, which takes no arguments",
            hint="set the values in its first cell",
        )
    path = Path(target)
    try:
        return (
            _read_notebook(path)
            if path.suffix == ".ipynb"
            else RunInput((_build_script(_read_script(path), target, arguments, is_file=True),))
        )
    except OSError as error:
        raise FileTransferError(
            f"cannot read {target}: {error.strerror}",
            hint="check the name. An argument that ends in .py or .ipynb is always a file",
        ) from error
    except (SyntaxError, UnicodeDecodeError) as error:
        raise FileTransferError(f"{target} is not a Python file: {error}") from error


def _build_script(code: str, name: str, arguments: Sequence[str], *, is_file: bool = False) -> Cell:
    """Build the cell of a script, or of code that has arguments."""
    return Cell(code, script=(name, *arguments) if is_file or arguments else ())


def _read_script(path: Path) -> str:
    """Read a script in the encoding that it declares."""
    with tokenize.open(path) as file:
        return file.read()


def _read_notebook(path: Path) -> RunInput:
    import nbformat

    text = path.read_text(encoding="utf-8")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about cells without ids, which get one
            notebook: Any = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise FileTransferError(f"{path} is not a notebook: {_get_first_line(error)}") from error
    language = notebook.metadata.get("kernelspec", {}).get("language", "python")
    if language != "python":
        raise FileTransferError(f"{path} is a notebook in {language}, not in Python")
    cells = enumerate(notebook.cells)
    return RunInput(
        tuple(_build_cell(at, cell) for at, cell in cells if _is_runnable(cell)), notebook
    )


def _is_runnable(cell: Any) -> bool:
    tags = cell.metadata.get("tags", ())
    return bool(cell.cell_type == "code" and cell.source.strip() and "skip-execution" not in tags)


def _build_cell(position: int, cell: Any) -> Cell:
    return Cell(cell.source, "raises-exception" in cell.metadata.get("tags", ()), position)


def _get_first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
