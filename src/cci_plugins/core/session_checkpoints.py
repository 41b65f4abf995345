"""Save and restore of one session, whole or not at all.

`save_session` downloads every file by the usual routes into a draft of the store, and publishes
it. `CheckpointReader` copies a checkpoint to this machine and compares every hash.
`replace_files` then sends the files to the session. If one fails, it puts back what was there.

The caller holds the session's lock, so that no code runs meanwhile.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

import anyio

from cci_plugins.common.file_names import is_safe_name
from cci_plugins.common.log import logger
from cci_plugins.common.temporary import make_temporary_folder
from cci_plugins.errors import CheckpointError, ConfigurationError, UnsafeNameError
from cci_plugins.files.checkpoint_blobs import DEFAULT_RETENTION, BlobCheckpoints
from cci_plugins.files.checkpoint_folder import FolderCheckpoints
from cci_plugins.files.checkpoints import (
    MANIFEST,
    MAX_NOTEBOOK_BYTES,
    NOTEBOOK,
    Checkpoint,
    CheckpointStore,
    Manifest,
    build_changed_error,
    build_member_name,
    check_name,
    create_name,
    parse_manifest,
)
from cci_plugins.files.source import PathSource, check_folder_size, make_source
from cci_plugins.models import FileInfo

from .session_handle import SessionHandle, ignore_progress
from .session_replay import ReplayCell

if TYPE_CHECKING:
    from cci_plugins.files.blob import BlobStorage
    from cci_plugins.files.file_transfer import FileOptions
    from cci_plugins.files.source import UploadSource

SaveTarget: TypeAlias = str | os.PathLike[str]
_SHOWN_NAMES = 10


@dataclass(frozen=True, slots=True)
class SavedSession:
    """A checkpoint that was read and compared, on this machine.

    Attributes:
        manifest: Its manifest.
        notebook: The text of its notebook.
        folder: The folder with its members.
    """

    manifest: Manifest
    notebook: str
    folder: Path


def open_store(
    to: SaveTarget | BlobStorage | None, files: FileOptions, retention: timedelta | None
) -> CheckpointStore:
    """Return the store of a folder or a blob container.

    Args:
        to: The folder or container. None means the configured container.
        files: The configured containers.
        retention: How long the store keeps a checkpoint. None means its default.

    Raises:
        ConfigurationError: It is neither, or the container in which files are staged.
    """
    if retention is not None and retention % timedelta(days=1):
        raise ConfigurationError(
            f"retention must be whole days, not {retention}", hint="pass timedelta(days=30)"
        )
    if to is None:
        if files.checkpoints is None:
            raise ConfigurationError(
                "no storage for checkpoints is configured",
                hint="pass to=, or set AZURE_STORAGE_CHECKPOINT_CONTAINER",
            )
        to = files.checkpoints
    if is_blob_storage(to):
        default = files.checkpoint_retention if to is files.checkpoints else DEFAULT_RETENTION
        _refuse_staging(to, files)
        return BlobCheckpoints(to, retention or default)
    if isinstance(to, str | os.PathLike) and os.fspath(to) not in {"", b""}:
        store = FolderCheckpoints(Path(to))
        store.retention = retention
        return store
    raise ConfigurationError(
        f"a checkpoint cannot be saved to {to!r:.80}", hint="pass a folder or a BlobStorage"
    )


def find_checkpoint(
    checkpoint: Checkpoint | SaveTarget, storage: BlobStorage | None
) -> tuple[CheckpointStore, str]:
    """Return the store and the name of a checkpoint.

    Args:
        checkpoint: What `save` returned, its name or URL, or the path of its folder.
        storage: The container of a name or URL.

    Raises:
        CheckpointError: It cannot be a checkpoint.
        ConfigurationError: It is a URL, and its container is not known.
    """
    if isinstance(checkpoint, Checkpoint):
        storage = checkpoint.storage or storage
        text = checkpoint.location
    elif isinstance(checkpoint, str | os.PathLike):
        text = os.fspath(checkpoint)
    else:
        raise ConfigurationError(
            f"cannot restore a {type(checkpoint).__name__}", hint="pass what Session.save returned"
        )
    is_url = text.startswith(("https://", "http://"))
    if storage is not None and (is_url or _is_name(text)):
        place = f"{storage.url}/{storage.container}/"
        if is_url and not text.startswith(place):
            raise ConfigurationError(
                f"the checkpoint is not in {place}", hint="pass its container by storage="
            )
        return BlobCheckpoints(storage), check_name(text.removeprefix(place))
    if is_url:
        raise ConfigurationError(
            "the container of this checkpoint is not configured",
            hint="pass storage=BlobStorage(account, container)",
        )
    path = Path(text)
    return FolderCheckpoints(path.parent), check_name(path.name)


def _is_name(text: str) -> bool:
    return "/" not in text and os.sep not in text and not Path(text).exists()


def is_blob_storage(to: object) -> TypeGuard[BlobStorage]:
    """Return whether this is storage, without loading its module for a folder."""
    if isinstance(to, str | os.PathLike):
        return False
    from cci_plugins.files.blob import BlobStorage  # noqa: PLC0415 - a folder needs none of it

    return isinstance(to, BlobStorage)


def _refuse_staging(to: BlobStorage, files: FileOptions) -> None:
    staging = files.storage
    if staging is not None and (to.url, to.container) == (staging.url, staging.container):
        raise ConfigurationError(
            f"the container {to.container!r} is for files on their way, which are deleted after a "
            "day: a checkpoint needs another one",
            hint="pass a BlobStorage of a container for checkpoints, such as cci-checkpoints",
        )


async def save_session(handle: SessionHandle, notebook: str, store: CheckpointStore) -> Checkpoint:
    """Save the files and the history of a session.

    Args:
        handle: The session.
        notebook: Its history.
        store: Where the checkpoint is kept.

    Raises:
        FileTooLargeError: A file is larger than every route takes, or all are too large together.
        FileTransferError: A file did not arrive, or the checkpoint could not be written.
    """
    _close_with_host(handle, store)
    listed = await (await handle.host.get_pool()).list_files(handle.id)
    names = sorted({info.name for info in listed if is_safe_name(info.name)})
    skipped = sorted({info.name for info in listed} - {*names})
    _report_skipped(skipped, is_all=not names)
    _check_size(handle, len(names), sum(info.size for info in listed))
    transfer = await handle.host.get_file_transfer()
    async with store.draft() as draft:
        files: list[FileInfo] = []
        for index, name in enumerate(names):
            path = draft / build_member_name(index)
            info = await transfer.download(handle.id, name, path, ignore_progress)
            files.append(replace(info, route=None))
            _check_size(handle, len(names), sum(one.size for one in files))  # they may grow
        text = notebook.encode(errors="replace")
        await anyio.to_thread.run_sync((draft / NOTEBOOK).write_bytes, text)
        history = FileInfo(NOTEBOOK, len(text), sha256=hashlib.sha256(text).hexdigest())
        created = datetime.now(UTC).replace(microsecond=0)
        expires = None if store.retention is None else created + store.retention
        manifest = Manifest(created, expires, history, tuple(files), tuple(skipped))
        return await store.publish(draft, create_name(created, store.retention), manifest)


@asynccontextmanager
async def read_checkpoint(
    checkpoint: Checkpoint | SaveTarget, handle: SessionHandle, storage: BlobStorage | None
) -> AsyncGenerator[SavedSession]:
    """Provide a checkpoint's content, after every size and hash was compared.

    Args:
        checkpoint: What `save` returned, or its path.
        handle: The session that it is for.
        storage: The container of a name or URL. None means the configured one.

    Raises:
        CheckpointError: It is missing, expired or damaged.
        FileTooLargeError: It is larger than the limits of this interpreter.
    """
    store, name = find_checkpoint(checkpoint, storage or handle.host.files.checkpoints)
    _close_with_host(handle, store)
    with make_temporary_folder() as temporary:
        folder = Path(temporary)
        manifest = await _read_manifest(store, name, folder)
        if isinstance(checkpoint, Checkpoint) and checkpoint.files:
            _check_same(name, checkpoint.files, manifest.files)
        _check_size(handle, len(manifest.files), sum(info.size for info in manifest.files))
        _check_notebook_size(name, manifest)
        for member, info in manifest.members():
            await store.read(name, member, folder / member, info)
        data = await anyio.to_thread.run_sync((folder / NOTEBOOK).read_bytes)
        yield SavedSession(manifest, data.decode(errors="replace"), folder)


async def read_history(folder: Path) -> str:
    """Return the history in a checkpoint's folder as the text of a notebook, without its files.

    Args:
        folder: The checkpoint.

    Raises:
        CheckpointError: It is not a checkpoint, or it is damaged.
    """
    store, name = find_checkpoint(folder, None)
    with make_temporary_folder() as temporary:
        manifest = await _read_manifest(store, name, Path(temporary))
        _check_notebook_size(name, manifest)
        target = Path(temporary, NOTEBOOK)
        await store.read(name, NOTEBOOK, target, manifest.notebook)
        data = await anyio.to_thread.run_sync(target.read_bytes)
    return data.decode(errors="replace")


def _check_notebook_size(name: str, manifest: Manifest) -> None:
    if manifest.notebook.size > MAX_NOTEBOOK_BYTES:
        raise build_changed_error(name, f"{NOTEBOOK} is too large")


async def restore_files(handle: SessionHandle, saved: SavedSession) -> None:
    """Send the files of a checkpoint to a session, all or none, and remember them.

    A file of the same name is replaced. Other files of the session stay.

    Raises:
        FileTransferError: A file did not arrive. The session has the files that it had before.
    """
    sources: dict[str, UploadSource] = {}
    limit = (await handle.host.get_file_transfer()).max_file_bytes
    try:
        for index, info in enumerate(saved.manifest.files):
            path = saved.folder / build_member_name(index)
            with path.open("rb") as file:  # a copy that outlives this call, to restore it again
                sources[info.name] = await make_source(file, limit=limit)
            path.unlink()
        infos = await _send_all(handle, sources)
    except BaseException:
        for source in sources.values():
            source.close()
        raise
    for name, source in sources.items():
        handle.remember(name, source, infos[name])


async def put_files_back(handle: SessionHandle, saved: SavedSession) -> None:
    """Make a new session's files those of its checkpoint again, after a replay changed them.

    Raises:
        CheckpointError: A file could not be sent again.
    """
    pool = await handle.host.get_pool()
    wanted = {info.name for info in saved.manifest.files}
    for info in await pool.list_files(handle.id):
        if info.name not in wanted and is_safe_name(info.name):
            await pool.delete_file(handle.id, info.name)
    _, missing = await handle.restore_uploads()
    if missing:
        raise CheckpointError(
            f"files did not arrive after the replay: {shorten_names(missing)}",
            hint="restore again; nothing was restored",
        )


async def _send_all(handle: SessionHandle, sources: dict[str, UploadSource]) -> dict[str, FileInfo]:
    pool, transfer = await handle.host.get_pool(), await handle.host.get_file_transfer()
    present = {info.name for info in await pool.list_files(handle.id)}
    sent: dict[str, FileInfo] = {}
    with make_temporary_folder() as temporary:
        backups: dict[str, Path] = {}
        for index, name in enumerate(sorted(present & {*sources})):
            backups[name] = Path(temporary, str(index))
            await transfer.download(handle.id, name, backups[name], ignore_progress)
        name = ""
        try:
            for name, source in sources.items():
                sent[name] = await handle.send(name, source, ignore_progress)
        except BaseException:
            with anyio.CancelScope(shield=True), anyio.move_on_after(60):
                await _put_back(handle, [*sent, name], backups)
            raise
    return sent


async def _put_back(handle: SessionHandle, names: Sequence[str], backups: dict[str, Path]) -> None:
    """Undo a restore that failed. A failure here is logged, because the first one is raised."""
    pool = await handle.host.get_pool()
    for name in names:
        try:
            if name in backups:
                await handle.send(name, PathSource(backups[name]), ignore_progress)
            elif name in {info.name for info in await pool.list_files(handle.id)}:
                await pool.delete_file(handle.id, name)
        except Exception as error:  # noqa: BLE001 - each of them is tried
            logger.warning("cannot undo the restore of %a: %s", name, type(error).__name__)


def _close_with_host(handle: SessionHandle, store: CheckpointStore) -> None:
    if store.storage is not None:
        handle.host.used_storages.add(store.storage)


async def _read_manifest(store: CheckpointStore, name: str, folder: Path) -> Manifest:
    await store.read(name, MANIFEST, folder / MANIFEST, None)
    data = await anyio.to_thread.run_sync((folder / MANIFEST).read_bytes)
    return parse_manifest(name, data.decode(errors="replace"))


def _check_same(name: str, saved: Sequence[FileInfo], found: Sequence[FileInfo]) -> None:
    if [(one.name, one.size, one.sha256) for one in saved] != [
        (one.name, one.size, one.sha256) for one in found
    ]:
        raise build_changed_error(name, f"{MANIFEST} has other files than were saved")


def _check_size(handle: SessionHandle, files: int, size: int) -> None:
    check_folder_size(files, size, handle.host.limits.staged_bytes)


def _report_skipped(names: Sequence[str], *, is_all: bool) -> None:
    if not names:
        return
    text = f"the checkpoint leaves out files whose names are not safe: {shorten_names(names)}"
    if is_all:
        raise UnsafeNameError(text, hint="rename them in the session")
    logger.warning("%s", text)


def shorten_names(names: Sequence[str]) -> str:
    """Return the first names for a sentence, and how many more there are."""
    shown = ", ".join(names[:_SHOWN_NAMES])
    more = len(names) - _SHOWN_NAMES
    return shown if more <= 0 else f"{shown} and {more} more"


def build_restored_note(saved: SavedSession, cells: Sequence[ReplayCell]) -> str:
    """Build the sentence for the model about what a restore brought back.

    Args:
        saved: The checkpoint.
        cells: The cells that were run again.
    """
    names = [info.name for info in saved.manifest.files]
    files = f"restored files: {shorten_names(names)}" if names else "restored, without files"
    lost = saved.manifest.skipped
    missing = f"; not saved: {shorten_names(lost)}" if lost else ""
    if not cells:
        return f"{files}{missing}; variables of earlier calls are gone"
    names = [cell.name for cell in cells]
    return f"{files}{missing}; variables are only those of {', '.join(names)}, which ran again"
