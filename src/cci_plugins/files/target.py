"""Files written on this machine: beside their target first, and never over another unasked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cci_plugins.common.file_names import normalize_new_name
from cci_plugins.errors import FileTransferError, TargetExistsError


def resolve_in_folder(folder: Path, name: str) -> Path:
    """Where a session's file goes in a folder: never outside of it, and through no link.

    Raises:
        UnsafeNameError: The name would lead out of the folder, or is reserved.
        FileTransferError: A link is in the way.
    """
    path = folder
    *parents, leaf = normalize_new_name(name).split("/")
    for part in parents:
        path /= part
        if path.is_symlink():
            raise FileTransferError(f"{path} is a link, which a download does not follow")
    return path / leaf


def resolve_target(to: str | os.PathLike[str], name: str) -> Path:
    """Where a session's file goes: the path itself, or its own name in a folder."""
    path = Path(to)
    if path.is_dir() or os.fspath(to).endswith(("/", os.sep)):
        return resolve_in_folder(path, name.rpartition("/")[2])
    return path


@contextmanager
def create_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A file beside its target that takes the target's name when all went well.

    Args:
        path: The target; its folders are made.
        overwrite: Replace what is there; a link is replaced itself, not what it leads to.

    Raises:
        TargetExistsError: Something of that name is there.
        FileTransferError: The target cannot be written.
    """
    with _translate_errors(path):
        if not overwrite and os.path.lexists(path):
            raise _build_exists_error(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".cci-", dir=path.parent, ignore_cleanup_errors=True
        ) as folder:
            part = Path(folder, "part")
            yield part
            _move_into_place(part, path, overwrite=overwrite)


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, FileTransferError):
            raise
        raise FileTransferError(f"cannot write {path}: {error.strerror or error}") from error


def _move_into_place(part: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        part.replace(path)
        return
    try:
        path.hardlink_to(part)  # unlike a rename, it fails when the name was taken meanwhile
    except FileExistsError:
        raise _build_exists_error(path) from None
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise _build_exists_error(path) from None
        part.rename(path)


def _build_exists_error(path: Path) -> TargetExistsError:
    return TargetExistsError(f"{path} is there already", hint="pass overwrite=True to replace it")
