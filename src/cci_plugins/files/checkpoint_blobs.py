"""Checkpoints in a container of Blob Storage, each under a prefix of its own.

This machine alone writes and reads them, by signatures that no session gets. The manifest is
written last, so a checkpoint without one does not exist. A lifecycle rule of the account deletes
the blobs after the retention.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from typing_extensions import override

from cci_plugins.common.temporary import make_temporary_folder
from cci_plugins.errors import (
    CheckpointError,
    FileTransferError,
    SessionFileNotFoundError,
)
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
from .file_transfer import UnreachableError, check_report, transfer_locally

if TYPE_CHECKING:
    from .blob import BlobStorage

DEFAULT_RETENTION = timedelta(days=30)
_LINK_LIFETIME = timedelta(hours=1)
_CLEANUP_SECONDS = 60


class BlobCheckpoints(CheckpointStore):
    """The checkpoints in a container.

    Args:
        storage: The container.
        retention: When its lifecycle rule deletes a blob.
    """

    def __init__(self, storage: BlobStorage, retention: timedelta = DEFAULT_RETENTION) -> None:
        self.storage = self._storage = storage
        self.retention = retention

    @override
    @asynccontextmanager
    async def draft(self) -> AsyncGenerator[Path]:
        with make_temporary_folder() as folder:
            yield Path(folder)

    @override
    async def publish(self, draft: Path, name: str, manifest: Manifest) -> Checkpoint:
        text = manifest.to_json()
        await anyio.to_thread.run_sync((draft / MANIFEST).write_text, text, "ascii")
        written: list[str] = []
        try:
            for member in [*(member for member, _ in manifest.members()), MANIFEST]:
                written.append(f"{name}/{member}")
                await self.write(name, member, draft / member)
        except BaseException:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_CLEANUP_SECONDS):
                for blob in reversed(written):  # the manifest first
                    await self._storage.delete(blob)
            raise
        return Checkpoint(
            name,
            f"{self._storage.url}/{self._storage.container}/{name}",
            manifest.created_at,
            manifest.expires_at,
            manifest.files,
            manifest.skipped,
            self._storage,
        )

    @override
    async def read(self, name: str, member: str, target: Path, info: FileInfo | None) -> None:
        if not await self.read_if_there(name, member, target, info):
            raise build_missing_error(name, f"the container {self._storage.container!r}")

    async def read_if_there(
        self, name: str, member: str, target: Path, info: FileInfo | None
    ) -> bool:
        """Copy a member as `read` does. Return False if it is missing."""
        expected: dict[str, Any] = {"limit": MAX_MANIFEST_BYTES}
        if info is not None:
            expected = {"limit": info.size, "size": info.size, "sha256": info.sha256}
        try:
            await self._move("get", f"{name}/{member}", path=str(target), **expected)
        except SessionFileNotFoundError:
            return False
        except CheckpointError:
            raise build_changed_error(name, f"{member} has another size or hash") from None
        return True

    async def write(self, name: str, member: str, source: Path) -> None:
        """Write a member, also over one that is there.

        Raises:
            FileTransferError: It could not be written.
        """
        await self._move("put", f"{name}/{member}", path=str(source))

    async def _move(self, verb: str, blob: str, **fields: Any) -> None:
        """Move a file of this machine by a signature that is forgotten afterwards."""
        link = await self._storage.link(blob, "cw" if verb == "put" else "r", _LINK_LIFETIME)
        job = {"verb": verb, "url": link.reveal(), "ca": self._storage.ca, **fields}
        try:
            report = await transfer_locally(job, lambda _: None)
            if report.get("kind") in {"changed", "too_large"}:
                raise CheckpointError(f"{blob} differs")
            check_report(report, blob)
        except UnreachableError:
            raise FileTransferError(
                f"cannot move {blob!r}: the storage account cannot be reached from this machine",
                hint="check AZURE_STORAGE_ACCOUNT and the network",
                retryable=True,
            ) from None
        finally:
            link.forget()


WorkspacePlace: TypeAlias = Path | BlobCheckpoints
