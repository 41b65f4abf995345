"""Files that a run leaves on this machine; none is ever written over."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import chain, count
from pathlib import Path

from cci_plugins.common.file_names import normalize_new_name
from cci_plugins.errors import (
    FileTransferError,
    SessionFileNotFoundError,
    TargetExistsError,
    UnsafeNameError,
)
from cci_plugins.files.target import resolve_in_folder
from cci_plugins.models import FileInfo, Result

_SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/svg+xml": ".svg",
    "image/gif": ".gif",
    "image/webp": ".webp",
}


class Saver:
    """Writes into one folder.

    Args:
        folder: Where to; made when the first file is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)

    def save_image(self, result: Result) -> Path | None:
        """Save a result's image as `image-1.png` and so on; None when it has none."""
        for media_type, suffix in _SUFFIXES.items():
            data = _decode_image(media_type, result)
            if data is not None:
                names = (f"image-{number}{suffix}" for number in self._numbers)
                return self._write_first_free(self._folder, names, data)
        return None

    def save_file(self, name: str, fetch: Callable[[Path], object]) -> Path:
        """Save a session's file under its own name, or with a number where that is taken.

        Args:
            name: Its name in the session.
            fetch: Brings it to a path, or raises `TargetExistsError`.
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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                try:
                    with (folder / name).open("xb") as file:
                        file.write(data)
                except FileExistsError:
                    continue
                return folder / name
        except OSError as error:
            raise FileTransferError(f"cannot write into {folder}: {error.strerror}") from error
        raise AssertionError("names never end")


def is_savable(name: str) -> bool:
    """Return whether this machine may have a file of this name."""
    try:
        return bool(normalize_new_name(name))
    except UnsafeNameError:
        return False


def match_files(files: Sequence[FileInfo], pattern: str) -> list[str]:
    """Names that a pattern means; hidden ones only when the pattern starts with a dot.

    Raises:
        SessionFileNotFoundError: None does.
    """
    names = [
        file.name
        for file in files
        if fnmatchcase(file.name, pattern)
        and (pattern.startswith(".") or not _is_hidden(file.name))
    ]
    if not names:
        there = ", ".join(file.name for file in files[:10]) or "none"
        raise SessionFileNotFoundError(
            f"the session has no file that matches {pattern!r}", hint=f"files there: {there}"
        )
    return names


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _decode_image(media_type: str, result: Result) -> bytes | None:
    value = result.data.get(media_type)
    if not isinstance(value, str):
        return None
    if media_type == "image/svg+xml":
        return value.encode()
    try:
        return b64decode(value)
    except Base64Error:
        return None
