"""A folder of this machine that keeps the files of one session after each run.

The files come back as uploads do: each is remembered with its copy, so `SessionHandle` sends it
again when the pool replaced the session. In a new process the first run does so, too.

The folder of a session has one copy for each content, named by its hash, and an index in the form
of a checkpoint's manifest. The index is replaced in one step after the copies are there.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import anyio

from cci_plugins.common.file_names import is_safe_name
from cci_plugins.common.log import logger
from cci_plugins.errors import CodeInterpreterError, FileTooLargeError, FileTransferError
from cci_plugins.files.checkpoints import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    NOTEBOOK,
    Manifest,
    parse_manifest,
)
from cci_plugins.files.source import MAX_FOLDER_FILES, PathSource
from cci_plugins.models import Execution, FileInfo

from .session_handle import SessionHandle, ignore_progress

_COPY = "copy-"


class Workspace:
    """The kept files of one session.

    Args:
        folder: The folder of all sessions.
        key: The conversation. Its hash names the session's own folder.
    """

    def __init__(self, folder: Path, key: str) -> None:
        digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
        self._folder = folder / digest
        self._index: dict[str, FileInfo] = {}

    async def open(self, handle: SessionHandle) -> bool:
        """Remember the kept files as uploads. Return whether there are any to send."""
        self._index = await anyio.to_thread.run_sync(self._read_index)
        is_any = False
        for name, info in self._index.items():
            if not handle.has_upload(name):
                try:
                    handle.remember(name, PathSource(self._get_copy(info)), info)
                except FileTransferError:  # the copy is missing
                    continue
                is_any = True
        return is_any

    async def keep(self, handle: SessionHandle, execution: Execution) -> list[str]:
        """Copy the files that changed, and return the names of those that cannot be kept.

        Raises:
            CodeInterpreterError: The pool failed, or the folder cannot be written.
        """
        listed = await (await handle.host.get_pool()).list_files(handle.id)
        changed = {info.name for info in execution.files}
        skipped = [info.name for info in listed if not is_safe_name(info.name)]
        kept: dict[str, FileInfo] = {}
        room = handle.host.limits.staged_bytes
        for info in listed:
            if info.name in skipped:
                continue
            known = self._index.get(info.name)
            is_same = known is not None and info.name not in changed and known.size == info.size
            if not is_same or handle.get_digest(info.name) not in {None, known and known.sha256}:
                known = None if info.size > room else await self._copy(handle, info.name)
            if known is None or known.size > room or len(kept) >= MAX_FOLDER_FILES:
                skipped.append(info.name)
                continue
            room -= known.size
            kept[info.name] = known
        if execution.instance:  # else the pool may have replaced the session without a sign
            for name in set(self._index) - {info.name for info in listed}:
                handle.forget_upload(name)
        else:
            kept = {**self._index, **kept}
        if kept != self._index:
            await anyio.to_thread.run_sync(self._write_index, kept)
            self._index = kept
        for name, info in kept.items():
            handle.remember(name, PathSource(self._get_copy(info)), info)
        return skipped

    async def _copy(self, handle: SessionHandle, name: str) -> FileInfo | None:
        """Copy a file of the session. Return None if no route takes its size."""
        transfer = await handle.host.get_file_transfer()
        try:
            await anyio.to_thread.run_sync(self._create)
            with tempfile.TemporaryDirectory(prefix=".cci-", dir=self._folder) as folder:
                part = Path(folder, "part")
                info = await transfer.download(handle.id, name, part, ignore_progress)
                await anyio.to_thread.run_sync(part.replace, self._get_copy(info))
        except FileTooLargeError:
            return None
        except FileTransferError:
            raise
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise FileTransferError(f"cannot write the workspace: {reason}") from error
        return replace(info, route=None)

    def _create(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _get_copy(self, info: FileInfo) -> Path:
        return self._folder / f"{_COPY}{info.sha256}"

    def _read_index(self) -> dict[str, FileInfo]:
        path = self._folder / MANIFEST
        try:
            if path.is_symlink() or path.stat().st_size > MAX_MANIFEST_BYTES:
                return {}
            manifest = parse_manifest(self._folder.name, path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, CodeInterpreterError):
            logger.warning("the workspace of a session cannot be read, so its files do not return")
            return {}
        return {info.name: info for info in manifest.files if not self._get_copy(info).is_symlink()}

    def _write_index(self, kept: Mapping[str, FileInfo]) -> None:
        """Replace the index, then remove the copies that it does not name."""
        empty = FileInfo(NOTEBOOK, 0, sha256=hashlib.sha256().hexdigest())
        manifest = Manifest(datetime.now(UTC), None, empty, tuple(kept.values()))
        try:
            self._create()
            handle, part = tempfile.mkstemp(prefix=".cci-", dir=self._folder)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(manifest.to_json())
            Path(part).replace(self._folder / MANIFEST)
            wanted = {self._get_copy(info).name for info in kept.values()}
            for path in self._folder.iterdir():
                if path.name.startswith(_COPY) and path.name not in wanted:
                    path.unlink(missing_ok=True)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise FileTransferError(f"cannot write the workspace: {reason}") from error
