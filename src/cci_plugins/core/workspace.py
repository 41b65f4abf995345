"""A folder or a blob container that keeps the files of one session after each run.

The files come back as uploads do: each is remembered with its copy, so `SessionHandle` sends it
again when the pool replaced the session. In a new process the first run does so, too.

The folder of a session has one copy for each content, named by its hash, and an index in the form
of a checkpoint's manifest. The index is replaced in one step after the copies are there.

`BlobWorkspace` has such a folder for the lifetime of the session, and the same files in a
container, under a prefix of their own. It deletes no blob, because another program may use it:
the account's lifecycle rule does. So each copy that is still needed is written again in time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import anyio
from typing_extensions import override

from cci_plugins.common.file_names import is_safe_name
from cci_plugins.common.log import logger
from cci_plugins.common.temporary import make_temporary_folder
from cci_plugins.errors import (
    CheckpointError,
    CodeInterpreterError,
    ConfigurationError,
    FileTooLargeError,
    FileTransferError,
)
from cci_plugins.files.checkpoint_blobs import (
    DEFAULT_RETENTION,
    BlobCheckpoints,
    WorkspacePlace,
)
from cci_plugins.files.checkpoints import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    NOTEBOOK,
    Manifest,
    get_now,
    parse_manifest,
)
from cci_plugins.files.file_transfer import FileOptions
from cci_plugins.files.source import MAX_FOLDER_FILES, PathSource, check_folder_size
from cci_plugins.models import Execution, FileInfo

from .session_checkpoints import is_blob_storage, open_store
from .session_handle import SessionHandle, ignore_progress

_COPY = "copy-"
_PREFIX = "workspace-"


def check_workspace(workspace: object, files: FileOptions | None) -> WorkspacePlace:
    """Return the place of a workspace: a folder, or a container.

    Args:
        workspace: A path, or a `BlobStorage`.
        files: The configured containers.

    Raises:
        ConfigurationError: It is neither, or the container that files are staged in.
    """
    if is_blob_storage(workspace):
        store = open_store(workspace, files or FileOptions(), None)
        if isinstance(store, BlobCheckpoints):
            return store
    if not isinstance(workspace, str | os.PathLike) or not os.fspath(workspace):
        raise ConfigurationError(
            f"the workspace must be a folder or a BlobStorage, not {type(workspace).__name__}",
            hint="pass a path, or the container for checkpoints",
        )
    return Path(os.fspath(workspace)).absolute()


def create_workspace(place: WorkspacePlace, key: str) -> Workspace:
    """Return the workspace of one session.

    Args:
        place: The place for all sessions.
        key: The conversation.
    """
    return Workspace(place, key) if isinstance(place, Path) else BlobWorkspace(place, key)


class Workspace:
    """The kept files of one session.

    Args:
        folder: The folder of all sessions.
        key: The conversation. Its hash names the session's own folder.

    Attributes:
        missing: Files whose copies are gone, as `open` found.
    """

    def __init__(self, folder: Path, key: str) -> None:
        digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
        self._folder = folder / digest
        self._index: dict[str, FileInfo] = {}
        self._kept_since: datetime | None = None  # the time in the index
        self.missing: list[str] = []

    async def open(self, handle: SessionHandle) -> bool:
        """Remember the kept files as uploads. Return whether there are any to send.

        Raises:
            CodeInterpreterError: The container cannot be read. Nothing has changed.
        """
        self._index = await anyio.to_thread.run_sync(self._read_index)
        is_any = False
        for name, info in self._index.items():
            if not handle.has_upload(name):
                try:
                    handle.remember(name, PathSource(self._get_copy(info)), info)
                except FileTransferError:  # the copy is missing
                    self.missing.append(name)
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
        await self._publish(kept)
        for name, info in kept.items():
            handle.remember(name, PathSource(self._get_copy(info)), info)
        return skipped

    async def _publish(self, kept: dict[str, FileInfo]) -> None:
        """Replace the index, if it changed."""
        if kept != self._index:
            await anyio.to_thread.run_sync(self._write_index, kept)
            self._index = kept

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
        self._kept_since = manifest.created_at
        return {info.name: info for info in manifest.files if not self._get_copy(info).is_symlink()}

    def _write_index(self, kept: Mapping[str, FileInfo]) -> None:
        """Replace the index, then remove the copies that it does not name."""
        manifest = _build_manifest(kept, get_now(), None)
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


class BlobWorkspace(Workspace):
    """The kept files of one session, in a container.

    Args:
        store: The container, and when its lifecycle rule deletes a blob.
        key: The conversation. Its hash is part of the prefix of the session's blobs.
    """

    def __init__(self, store: BlobCheckpoints, key: str) -> None:
        folder = tempfile.mkdtemp(prefix="cci-")
        super().__init__(Path(folder), key)
        weakref.finalize(self, _remove_own, folder, os.getpid())
        self._store = store
        self._retention = store.retention or DEFAULT_RETENTION
        self._prefix = f"{_PREFIX}{self._folder.name}"
        self._written: set[str] = set()  # copies in the container, by hash
        self._written_since = get_now()  # none of them is older

    @override
    async def open(self, handle: SessionHandle) -> bool:
        if self._store.storage is not None:
            handle.host.used_storages.add(self._store.storage)
        await self._fetch(handle.host.limits.staged_bytes)
        return await super().open(handle)

    @override
    async def _publish(self, kept: dict[str, FileInfo]) -> None:
        """Write new copies and then the index, and all of them again when they get old."""
        now = get_now()
        is_due = now - self._written_since >= self._retention / 2
        if kept == self._index and not is_due:
            return
        written = set() if is_due else self._written
        for info in kept.values():
            if info.sha256 is not None and info.sha256 not in written:
                copy = self._get_copy(info)
                await self._store.write(self._prefix, copy.name, copy)
                written.add(info.sha256)
        self._written = written
        if is_due:
            self._written_since = now
        manifest = _build_manifest(kept, self._written_since, self._retention)
        with make_temporary_folder() as folder:
            part = Path(folder, MANIFEST)
            await anyio.to_thread.run_sync(part.write_text, manifest.to_json(), "ascii")
            await self._store.write(self._prefix, MANIFEST, part)
        await super()._publish(kept)

    async def _fetch(self, limit: int) -> None:
        """Copy the index and the files of the container to this machine.

        Args:
            limit: The most bytes of all files together.
        """
        await anyio.to_thread.run_sync(self._create)
        index = self._folder / MANIFEST
        index.unlink(missing_ok=True)
        if not await self._store.read_if_there(self._prefix, MANIFEST, index, None):
            return
        kept = await anyio.to_thread.run_sync(self._read_index)
        check_folder_size(len(kept), sum(info.size for info in kept.values()), limit)
        for info in kept.values():
            copy = self._get_copy(info)
            if info.sha256 is None or copy.exists():
                continue
            try:
                is_there = await self._store.read_if_there(self._prefix, copy.name, copy, info)
            except CheckpointError:
                is_there = False  # it is damaged
            if is_there:
                self._written.add(info.sha256)
        self._written_since = self._kept_since or get_now()


def _remove_own(folder: str, pid: int) -> None:
    """Remove a folder, but not in a forked process, whose parent still needs it."""
    if pid == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)


def _build_manifest(
    kept: Mapping[str, FileInfo], created_at: datetime, retention: timedelta | None
) -> Manifest:
    empty = FileInfo(NOTEBOOK, 0, sha256=hashlib.sha256().hexdigest())
    expires_at = None if retention is None else created_at + retention
    return Manifest(created_at, expires_at, empty, tuple(kept.values()))
