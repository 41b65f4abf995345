"""Files that `cci run` saves on this machine: images, downloads and the executed notebook.

Images and downloads replace an existing file only on request. They get another number instead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from cci_plugins.common.file_names import normalize_new_name
from cci_plugins.common.image_data import decode_image
from cci_plugins.errors import (
    SessionFileNotFoundError,
    TargetExistsError,
    UnsafeNameError,
)
from cci_plugins.files.target import create_file, resolve_in_folder
from cci_plugins.models import FileInfo, Result

if TYPE_CHECKING:
    from nbformat import NotebookNode

_SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/svg+xml": ".svg",
    "image/gif": ".gif",
    "image/webp": ".webp",
}


class Saver:
    """Writer of images and downloaded files into one folder.

    Args:
        folder: Target folder, which is created with the first file.
        overwrite: Replace existing images and downloads.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self._folder = folder
        self.overwrite = overwrite
        self._numbers = count(1)

    def save_image(self, result: Result) -> Path | None:
        """Save a result's image as `image-1.png` and so on. Return None if it has no image."""
        for media_type, suffix in _SUFFIXES.items():
            data = decode_image(media_type, result.data.get(media_type))
            if data is not None:
                names = (f"image-{number}{suffix}" for number in self._numbers)
                return self._write_first_free(self._folder, names, data)
        return None

    def save_file(self, name: str, fetch: Callable[[Path], object]) -> Path:
        """Save a session's file under its own name, with a number added if that name exists.

        Args:
            name: Name of the file in the session.
            fetch: Function that downloads the file to a path, or raises `TargetExistsError`.

        Returns:
            Path of the saved file.
        """
        path = resolve_in_folder(self._folder, name)
        numbered = (f"{path.stem}-{number}{path.suffix}" for number in count(1))
        for leaf in chain((path.name,), numbered):
            try:
                fetch(path.with_name(leaf))
            except TargetExistsError:
                continue
            return path.with_name(leaf)
        raise AssertionError("names never end")

    def _write_first_free(self, folder: Path, names: Iterator[str], data: bytes) -> Path:
        for name in names:
            try:
                with create_file(folder / name, overwrite=self.overwrite) as part:
                    part.write_bytes(data)
            except TargetExistsError:
                continue
            return folder / name
        raise AssertionError("names never end")


def is_savable(name: str) -> bool:
    """Return whether this machine may have a file of this name."""
    try:
        return bool(normalize_new_name(name))
    except UnsafeNameError:
        return False


def matches(name: str, pattern: str) -> bool:
    """Return whether a file's name matches a pattern, a hidden one only if it begins with a dot."""
    return fnmatchcase(name, pattern) and (pattern.startswith(".") or not is_hidden(name))


def is_hidden(name: str) -> bool:
    """Return whether a file, or a folder on its way, has a name that begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def match_files(files: Sequence[FileInfo], pattern: str) -> list[str]:
    """Return the names that match a pattern, hidden ones only if it begins with a dot.

    Raises:
        SessionFileNotFoundError: No file matches.
    """
    names = [file.name for file in files if matches(file.name, pattern)]
    if not names:
        listing = ", ".join(file.name for file in files[:10]) or "none"
        raise SessionFileNotFoundError(
            f"the session has no file that matches {pattern!r}",
            hint=f"files in the session: {listing}",
        )
    return names


def insert_outputs(notebook: NotebookNode, history: str, positions: Sequence[int | None]) -> str:
    """Insert the outputs of this run into a copy of a notebook, whose text and cells stay.

    Args:
        notebook: Notebook that was run.
        history: The session's history as a notebook file's text, with one cell for each run.
        positions: Index in the notebook of the cell of each run.

    Returns:
        Text of the notebook file.
    """
    import nbformat

    result = copy.deepcopy(notebook)
    for cell in result.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    executed = nbformat.reads(history, as_version=4)  # type: ignore[no-untyped-call]
    # A history drops its oldest runs, so both are matched from their ends.
    for position, run in zip(reversed(positions), reversed(executed.cells), strict=False):
        if position is not None:
            cell = result.cells[position]
            cell.outputs, cell.execution_count = run.outputs, run.execution_count
    return str(nbformat.writes(result))  # type: ignore[no-untyped-call]
