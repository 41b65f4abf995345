"""Targets of downloads, which are written whole and replace a file only on request.

A file is first written under a temporary name next to its target. It then takes the target's
name in one step, so that readers see the old or the new file and never a part.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from cci_plugins.common.async_files import open_file
from cci_plugins.common.file_names import normalize_new_name
from cci_plugins.common.shortages import find_hint
from cci_plugins.errors import CodeInterpreterError, FileTransferError, TargetExistsError


def resolve_in_folder(folder: Path, name: str) -> Path:
    """Return the path of a session's file in a folder, never outside it or through a link.

    Args:
        folder: The folder on this machine.
        name: The file's name in the session.

    Raises:
        UnsafeNameError: The name would leave the folder, or is reserved.
        FileTransferError: A folder on the way is a link.
    """
    path = folder
    *parents, leaf = normalize_new_name(name).split("/")
    for part in parents:
        path /= part
        if path.is_symlink():
            raise FileTransferError(
                f"cannot write through {path}: it is a link", hint="pass another to="
            )
    return path / leaf


def resolve_target(to: str | os.PathLike[str], name: str) -> Path:
    """Return the target path of a session's file.

    Args:
        to: The path itself, or a folder, which exists or ends in a slash.
        name: The file's name in the session, whose last part is used in a folder.
    """
    path = Path(to)
    if path.is_dir() or os.fspath(to).endswith(("/", os.sep)):
        return resolve_in_folder(path, name.rpartition("/")[2])
    return path


@contextmanager
def create_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Provide a temporary file that takes the target's name when the context succeeds.

    Args:
        path: The target. Its folders are created.
        overwrite: Replace an existing target. A link itself is replaced, not the file it leads to.

    Raises:
        TargetExistsError: The target exists and `overwrite` is false.
        FileTransferError: The target cannot be written.
    """
    with translate_write_errors(path):
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
def translate_write_errors(path: Path) -> Iterator[None]:
    """Raise errors of the system that concern a file of this machine as `FileTransferError`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, CodeInterpreterError):
            raise
        hint = find_hint(error) if error.errno in {errno.EMFILE, errno.ENFILE} else None
        if error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", None)}:
            hint = f"free space in {path.parent}, or choose another folder"
        raise FileTransferError(
            f"cannot write {path}: {error.strerror or error}", hint=hint
        ) from error


async def write_file(path: Path, chunks: AsyncIterator[bytes]) -> None:
    """Write a file.

    Raises:
        FileTransferError: It cannot be written.
    """
    with translate_write_errors(path):
        async with open_file(path, "wb") as file:
            async for chunk in chunks:
                await file.write(chunk)


def _move_into_place(part: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        part.replace(path)
        return
    try:
        path.hardlink_to(part)  # unlike a rename, it fails when the name exists by now
    except FileExistsError:
        raise _build_exists_error(path) from None
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise _build_exists_error(path) from None
        part.rename(path)


def _build_exists_error(path: Path) -> TargetExistsError:
    return TargetExistsError(f"{path} exists already", hint="pass overwrite=True to replace it")
