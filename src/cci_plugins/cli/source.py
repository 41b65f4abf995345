"""What to run: code, a script, a notebook or standard input."""

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
    """One piece of code to run.

    Attributes:
        code: Python source.
        may_fail: Go on when it raises (the notebook tag `raises-exception`).
        position: Its index among the notebook's cells; None outside of a notebook.
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
    """Everything one call is to run, in order, and the notebook it came from."""

    cells: tuple[Cell, ...]
    notebook: NotebookNode | None = None


def read_source(target: str, arguments: Sequence[str] = ()) -> RunInput:
    """Decide what an argument names, and read it.

    Args:
        target: `-` for standard input, a name that ends in `.py` or `.ipynb`, else code.
        arguments: What the code finds in `sys.argv` behind its name.

    Raises:
        ConfigurationError: A notebook takes no arguments.
        FileTransferError: The file is not there, cannot be read or is not what its name says.
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
            hint="check the name; code itself may not end in .py or .ipynb",
        ) from error
    except (SyntaxError, UnicodeDecodeError) as error:
        raise FileTransferError(f"{target} is not a Python file: {error}") from error


def _build_script(code: str, name: str, arguments: Sequence[str], *, is_file: bool = False) -> Cell:
    """Build the cell of a script, or of code that has arguments."""
    return Cell(code, script=(name, *arguments) if is_file or arguments else ())


def _read_script(path: Path) -> str:
    """A script's text in the encoding it declares."""
    with tokenize.open(path) as file:
        return file.read()


def _read_notebook(path: Path) -> RunInput:
    import nbformat

    text = path.read_text(encoding="utf-8")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about cells without ids; they get one
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
