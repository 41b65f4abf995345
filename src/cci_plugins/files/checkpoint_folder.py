"""Checkpoints in a folder of this machine, one folder each.

The members are written into a hidden folder next to the others, which then gets the checkpoint's
name in one step. Reading follows no link, because others may write to the folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from typing_extensions import override

from cci_plugins.common.cancellation import finish_in_thread
from cci_plugins.common.limits import MIB
from cci_plugins.errors import FileTransferError
from cci_plugins.models import FileInfo

from .checkpoints import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Checkpoint,
    CheckpointStore,
    Manifest,
    build_changed_error,
    build_missing_error,
)

_READ_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO would block
    | getattr(os, "O_BINARY", 0)
)


class FolderCheckpoints(CheckpointStore):
    """The checkpoints in a folder. It is created if it is missing.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @override
    @asynccontextmanager
    async def draft(self) -> AsyncGenerator[Path]:
        draft = await finish_in_thread(self._create_draft, discard=_remove)
        try:
            yield draft
        finally:
            await finish_in_thread(_remove, draft)

    @override
    async def publish(self, draft: Path, name: str, manifest: Manifest) -> Checkpoint:
        target = self._folder / name
        try:
            await finish_in_thread(_publish, draft, target, manifest.to_json())
        except OSError as error:
            raise _build_write_error(self._folder, error) from error
        return Checkpoint(
            name,
            str(target.absolute()),
            manifest.created_at,
            manifest.expires_at,
            manifest.files,
            manifest.skipped,
        )

    @override
    async def read(self, name: str, member: str, target: Path, info: FileInfo | None) -> None:
        await anyio.to_thread.run_sync(self._read, name, member, target, info)

    def _create_draft(self) -> Path:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=".cci-", dir=self._folder))
        except OSError as error:
            raise _build_write_error(self._folder, error) from error

    def _read(self, name: str, member: str, target: Path, info: FileInfo | None) -> None:
        folder = self._folder / name
        try:
            if folder.is_symlink():
                raise build_changed_error(name, "its folder is a link")
            descriptor = os.open(folder / member, _READ_FLAGS)
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                raise build_missing_error(name, str(self._folder)) from error
            reason = error.strerror or type(error).__name__
            raise build_changed_error(name, f"{member} cannot be read ({reason})") from error
        with os.fdopen(descriptor, "rb") as source:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise build_changed_error(name, f"{member} is not a file")
            limit = MAX_MANIFEST_BYTES if info is None else info.size
            size, digest = 0, hashlib.sha256()
            with target.open("xb") as copy:
                while size <= limit and (chunk := source.read(MIB)):
                    size += len(chunk)
                    digest.update(chunk)
                    copy.write(chunk)
        is_same = size <= limit if info is None else size == limit
        if not is_same or (info is not None and digest.hexdigest() != info.sha256):
            raise build_changed_error(name, f"{member} has another size or hash")


def _publish(draft: Path, target: Path, manifest: str) -> None:
    (draft / MANIFEST).write_text(manifest, encoding="ascii")
    draft.rename(target)


def _remove(draft: Path) -> None:
    shutil.rmtree(draft, ignore_errors=True)  # after a success it has another name


def _build_write_error(folder: Path, error: OSError) -> FileTransferError:
    reason = error.strerror or type(error).__name__
    return FileTransferError(
        f"cannot write a checkpoint into {str(folder)!a}: {reason}", hint="pass another to="
    )
