"""Transfer of files into and out of sessions, each by the cheapest safe route.

Routes of an upload or download, in the order in which `_choose_route` tries them:

* `blob`, when the application asks for it from a size on (`FileOptions.stage_from`).
* `endpoint`: the pool's own files API.
* `inline` and `pieces`: without such an API, the session's code moves the bytes, within one call
  or several. The pool does this behind the same methods.
* `blob`: a blob of Azure Blob Storage. This machine and the session's own code each move the
  file between their disk and the blob by HTTPS, so that no bytes pass through the pool.

A URL of the user is fetched by the session (`direct`), or by this machine and then uploaded
(`relayed`) when the session cannot reach the host.

Invariants:

* A session is given a SAS for one blob, one direction and minutes only. The blob is deleted when
  the transfer ends, also by an error or cancellation. A cancelled transfer waits for its thread
  before (`transfer_locally`). A session that goes on replaces a blob that is there, or fails.
* A session's report may be a lie. `check_report` accepts a size, a hash or a reason and nothing
  else. An upload counts only if the session's size and hash equal those of the sent file. A
  download is compared with the report, and a size beyond the limit ends it.
* A session that cannot reach the storage is remembered, for itself only, and uses another route.
  One session's report must not change how others move their files.
* A file appears under its name whole or not at all, on both sides.
* No error or log message contains a URL with its signature.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio

from cci_plugins.common.file_names import guess_media_type
from cci_plugins.common.limits import Limits
from cci_plugins.common.log import logger
from cci_plugins.common.urls import SecretUrl
from cci_plugins.errors import (
    ConfigurationError,
    FileTooLargeError,
    FileTransferError,
    SessionFileNotFoundError,
)
from cci_plugins.in_session.transfer import transfer
from cci_plugins.in_session.url_client import TransferFault
from cci_plugins.models import FileInfo, Route, SharedFile
from cci_plugins.pools.base import SessionPool

from .in_session_transfer import transfer_in_session
from .sas import SasPolicy, accept
from .source import PathSource, UploadSource
from .target import write_file

if TYPE_CHECKING:
    from .blob import BlobStorage

LOCAL_TRANSFER_SECONDS = 3600.0
CANCEL_WAIT_SECONDS = 5.0
MAX_UNREACHABLE_SESSIONS = 10_000  # that are remembered
_DIGEST = re.compile(r"[0-9a-f]{64}")
ProgressHandler = Callable[[int], object]


class UnreachableError(FileTransferError):
    """A host that the session cannot reach at all."""


@dataclass(frozen=True, slots=True)
class FileOptions:
    """Options for the routes of files.

    Attributes:
        storage: Storage in which larger files are staged, or None.
        stage_from: Size in bytes from which files are staged although the pool has a files API.
        fetch: Rules for the URLs that may be fetched into sessions.
        checkpoints: Storage for `Session.save`, never the container of `storage`. Or None.
        checkpoint_retention: When the lifecycle rule of that container deletes a blob.

    Example:
        ```python
        from cci_plugins import FileOptions
        from cci_plugins.files.sas import STORAGE_HOSTS, SasPolicy

        options = FileOptions(fetch=SasPolicy(hosts=(*STORAGE_HOSTS, "data.example.org")))
        ```
    """

    storage: BlobStorage | None = None
    stage_from: int | None = None
    fetch: SasPolicy = field(default_factory=SasPolicy)
    checkpoints: BlobStorage | None = None
    checkpoint_retention: timedelta = timedelta(days=30)


class FileTransfer:
    """Transfer of files between this machine, sessions and storage.

    Args:
        pool: The pool of the sessions.
        limits: The limits of each route.
        options: The storage, and the rules for URLs.
    """

    def __init__(self, pool: SessionPool, *, limits: Limits, options: FileOptions) -> None:
        self._pool = pool
        self._limits = limits
        self._storage = options.storage
        self._stage_from = options.stage_from
        self._policy = options.fetch
        self._unreachable_sessions: set[str] = set()

    @property
    def max_file_bytes(self) -> int:
        """Size in bytes of the largest file that any route takes."""
        limits = self._limits
        own = max(limits.file_bytes, limits.pieces_bytes)
        return own if self._storage is None else max(own, limits.staged_bytes)

    async def check_size(self, session_id: str, size: int) -> None:
        """Raise `FileTooLargeError` if no route takes a file of this size."""
        await self._choose_route(session_id, size)

    async def upload(
        self, session_id: str, name: str, source: UploadSource, on_progress: ProgressHandler
    ) -> FileInfo:
        """Write a file into a session.

        Raises:
            FileTooLargeError: No route takes it.
            FileTransferError: It did not arrive. A file of that name is unchanged.
        """
        route = await self._choose_route(session_id, source.size)
        if route == "blob":
            try:
                return await self._upload_by_blob(session_id, name, source, on_progress)
            except UnreachableError as error:
                route = await self._choose_fallback_route(session_id, source.size, error)
        stream = _CountingStream(source.chunks(), on_progress)
        async with aclosing(stream.chunks()) as chunks:
            info = await self._pool.upload(session_id, name, chunks)
        logger.info("file: %d bytes in, by %s", source.size, route)
        return replace(info, sha256=stream.digest(), route=route)

    async def download(
        self, session_id: str, name: str, path: Path, on_progress: ProgressHandler
    ) -> FileInfo:
        """Read a session's file into a new file of this machine.

        Raises:
            SessionFileNotFoundError: The session has no such file.
            FileTooLargeError: No route takes it.
            FileTransferError: It did not arrive whole.
        """
        route = await self._choose_download_route(session_id, name)
        if route == "blob":
            try:
                return await self._download_by_blob(session_id, name, path, on_progress)
            except UnreachableError as error:
                size = await self._get_size(session_id, name)
                route = await self._choose_fallback_route(session_id, size, error)
        limit = self._limits.file_bytes if route == "endpoint" else self._limits.pieces_bytes
        stream = _CountingStream(
            self._pool.download(session_id, name), on_progress, name=name, limit=limit
        )
        async with aclosing(stream.chunks()) as chunks:
            await write_file(path, chunks)
        logger.info("file: %d bytes out, by %s", stream.size, route)
        return FileInfo(name, stream.size, guess_media_type(name), None, stream.digest(), route)

    async def fetch(
        self,
        session_id: str,
        url: SecretUrl | str,
        name: str,
        folder: Path,
        on_progress: ProgressHandler,
    ) -> FileInfo:
        """Fetch a URL of the user into a session.

        Args:
            session_id: The session.
            url: An HTTPS URL on a host that the policy allows.
            name: The file's name in the session.
            folder: A folder for the file on its way, when the session cannot reach the host.
            on_progress: Called with the bytes so far.

        Raises:
            FileTransferError: The policy refuses the URL, or the file did not arrive.
        """
        link = accept(url, self._policy)
        public_only = not self._policy.allow_private
        job = self._build_job("get", link, limit=self.max_file_bytes, public_only=public_only)
        if self._pool.capabilities.egress is not False:
            report = await transfer_in_session(
                self._pool, session_id, {**job, "name": name}, on_progress
            )
            if report.get("kind") != "unreachable":
                return _build_file_info(name, check_report(report, name), "direct")
        path = folder / "fetched"
        await self._run_locally({**job, "path": str(path)}, name, on_progress)
        source = await anyio.to_thread.run_sync(PathSource, path)
        return replace(await self.upload(session_id, name, source, on_progress), route="relayed")

    async def share(
        self, session_id: str, name: str, expires_in: timedelta, folder: Path
    ) -> SharedFile:
        """Copy a session's file into storage and return a link to the copy.

        Args:
            session_id: The session.
            name: The file.
            expires_in: How long the link works.
            folder: A folder for the file on its way.

        Raises:
            ConfigurationError: No storage is configured.
        """
        storage = self._storage
        if storage is None:
            raise ConfigurationError(
                "sharing a file needs storage",
                hint="set AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_CONTAINER",
            )
        path = folder / "shared"
        info = await self.download(session_id, name, path, _ignore_progress)
        blob = f"shared/{token_hex(16)}"
        link = await storage.link(blob, "cw", timedelta(hours=1))
        leaf = name.rpartition("/")[2]
        try:
            job = self._build_job("put", link, path=str(path))
            await self._run_locally(job, name, _ignore_progress)
            url = await storage.link(blob, "r", expires_in, download_as=leaf)
        except BaseException:
            with anyio.CancelScope(shield=True), anyio.move_on_after(30):
                await storage.delete(blob)
            raise
        return SharedFile(leaf, info.size, url, datetime.now(UTC) + expires_in, blob)

    async def unshare(self, shared: SharedFile) -> None:
        """Delete the copy, so that its link stops working."""
        if self._storage is not None:
            await self._storage.delete(shared.blob)

    async def aclose(self) -> None:
        """Close the storage."""
        if self._storage is not None:
            await self._storage.aclose()

    async def _upload_by_blob(
        self, session_id: str, name: str, source: UploadSource, on_progress: ProgressHandler
    ) -> FileInfo:
        async with self._require_storage().staged(source.size) as blob:
            async with source.path() as path:
                job = self._build_job("put", await blob.link("cw"), path=str(path))
                sent = await self._run_locally(job, name, _halve_progress(on_progress))
            if sent["size"] != source.size:
                raise FileTransferError(
                    f"{name!r} changed while it was uploaded", hint="upload it again"
                )
            job = self._build_job("get", await blob.link("r"), name=name, **sent)
            report = await self._run_in_session(
                session_id, job, _halve_progress(on_progress, sent["size"])
            )
        if report != sent:
            raise FileTransferError(
                f"{name!r} did not arrive in the session as it was sent", hint="upload it again"
            )
        on_progress(source.size)
        return _build_file_info(name, report, "blob")

    async def _download_by_blob(
        self, session_id: str, name: str, path: Path, on_progress: ProgressHandler
    ) -> FileInfo:
        limit = self._limits.staged_bytes
        size = await self._get_size(session_id, name)
        async with self._require_storage().staged(size, creates=True) as blob:
            job = self._build_job("put", await blob.link("cw"), name=name, replaces=blob.is_created)
            sent = await self._run_in_session(session_id, job, _halve_progress(on_progress))
            if sent["size"] > limit:
                raise self._build_too_large_error(sent["size"], has_files_api=False)
            job = self._build_job("get", await blob.link("r"), path=str(path), limit=limit, **sent)
            await self._run_locally(job, name, _halve_progress(on_progress, sent["size"]))
        return _build_file_info(name, sent, "blob")

    def _build_job(self, verb: str, link: SecretUrl, **fields: Any) -> dict[str, Any]:
        """Build a job of `in_session.transfer`, with the certificates that the storage needs."""
        ca = None if self._storage is None else self._storage.ca
        return {"verb": verb, "url": link.reveal(), "ca": ca, **fields}

    async def _run_in_session(
        self, session_id: str, job: dict[str, Any], on_progress: ProgressHandler
    ) -> dict[str, Any]:
        report = await transfer_in_session(self._pool, session_id, job, on_progress)
        return check_report(report, job["name"])

    async def _run_locally(
        self, job: dict[str, Any], name: str, on_progress: ProgressHandler
    ) -> dict[str, Any]:
        try:
            return check_report(await transfer_locally(job, on_progress), name)
        except UnreachableError as error:
            raise FileTransferError(
                f"cannot move {name!r}: the host cannot be reached from this machine",
                hint="check the address and this machine's network",
            ) from error

    async def _choose_route(self, session_id: str, size: int) -> Route:
        """Choose the cheapest route that takes a file of this size.

        Raises:
            FileTooLargeError: No route does.
        """
        has_files_api = await self._pool.has_files_api(session_id)
        can_stage = self._storage is not None and session_id not in self._unreachable_sessions
        can_stage = can_stage and self._pool.capabilities.egress is not False
        if (
            can_stage
            and has_files_api
            and self._stage_from is not None
            and size >= self._stage_from
        ):
            return "blob"
        if has_files_api and size <= self._limits.file_bytes:
            return "endpoint"
        if not has_files_api and size <= self._limits.inline_bytes:
            return "inline"
        if can_stage and size <= self._limits.staged_bytes:
            return "blob"
        if not has_files_api and size <= self._limits.pieces_bytes:
            return "pieces"
        raise self._build_too_large_error(size, has_files_api=has_files_api)

    async def _choose_download_route(self, session_id: str, name: str) -> Route:
        if self._storage is None and await self._pool.has_files_api(session_id):
            return "endpoint"  # the size is known after the download
        return await self._choose_route(session_id, await self._get_size(session_id, name))

    async def _choose_fallback_route(self, session_id: str, size: int, error: Exception) -> Route:
        """Choose a route after the session reported that it cannot reach the storage."""
        logger.info("files: sessions cannot reach the storage account: this one uses another route")
        if len(self._unreachable_sessions) >= MAX_UNREACHABLE_SESSIONS:
            self._unreachable_sessions.clear()
        self._unreachable_sessions.add(session_id)  # this one only: its report may be a lie
        try:
            return await self._choose_route(session_id, size)
        except FileTooLargeError as too_large:
            raise too_large from error

    def _build_too_large_error(self, size: int, *, has_files_api: bool) -> FileTooLargeError:
        limit = self._limits.file_bytes if has_files_api else self._limits.pieces_bytes
        if self._storage is None:
            hint = "set AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_CONTAINER to stage larger files"
        elif size > self._limits.staged_bytes:
            limit, hint = self._limits.staged_bytes, "raise Limits.staged_bytes"
        else:
            hint = (
                "sessions cannot reach the storage account: allow it with CCI_EGRESS on the "
                "embedded pool, with sessionNetworkConfiguration EgressEnabled on Azure"
            )
        return FileTooLargeError(
            f"a file of {size:,} bytes is too large for this pool: at most {limit:,}",
            size=size,
            limit=limit,
            hint=hint,
        )

    async def _get_size(self, session_id: str, name: str) -> int:
        for file in await self._pool.list_files(session_id):
            if file.name == name:
                return file.size
        raise SessionFileNotFoundError(f"the session has no file {name!r}")

    def _require_storage(self) -> BlobStorage:
        if self._storage is None:
            raise ConfigurationError("no storage is configured")
        return self._storage


class _CountingStream:
    """A stream of chunks that are counted, hashed and limited."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        on_progress: ProgressHandler,
        *,
        name: str = "",
        limit: int | None = None,
    ) -> None:
        self._chunks, self._on_progress, self._name, self._limit = chunks, on_progress, name, limit
        self._hash = hashlib.sha256()
        self.size = 0

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the chunks, and close their source at the end."""
        try:
            async for chunk in self._chunks:
                yield self._count(chunk)
        finally:
            if isinstance(self._chunks, AsyncGenerator):
                await self._chunks.aclose()

    def _count(self, chunk: bytes) -> bytes:
        self.size += len(chunk)
        if self._limit is not None and self.size > self._limit:
            raise FileTooLargeError(
                f"{self._name!r} is larger than {self._limit:,} bytes",
                size=self.size,
                limit=self._limit,
                hint="set AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_CONTAINER to stage it, or "
                "raise the limit in Limits",
            )
        self._hash.update(chunk)
        self._on_progress(self.size)
        return chunk

    def digest(self) -> str:
        """Return the SHA-256 of the chunks so far, as hex digits."""
        return self._hash.hexdigest()


async def transfer_locally(job: dict[str, Any], on_progress: ProgressHandler) -> dict[str, Any]:
    """Run a transfer on this machine, in a thread that ends soon after a cancellation.

    A cancelled call waits for the thread, so that no request is open when its blob is deleted.
    """
    begun, cancelled, ended = threading.Event(), threading.Event(), anyio.Event()

    def report_progress(done: int) -> None:
        if cancelled.is_set():
            raise TransferFault("broken", "the transfer was cancelled")
        on_progress(done)

    def work() -> dict[str, Any]:
        begun.set()
        try:
            return transfer({"seconds": LOCAL_TRANSFER_SECONDS, **job}, report_progress)
        finally:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(ended.set)

    loop = asyncio.get_running_loop()
    try:
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    except BaseException:
        cancelled.set()
        with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_WAIT_SECONDS):
            if begun.is_set():
                await ended.wait()
        raise


def check_report(report: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the size and hash of a report of success. Raise for anything else."""
    if "failed" not in report:
        size, digest = report.get("size"), report.get("sha256")
        if type(size) is not int or not 0 <= size < 1 << 62:
            message = f"cannot move {name!r}: the session reported an invalid size ({size!r:.40})"
            raise FileTransferError(message, hint="try again in a new session")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            message = f"cannot move {name!r}: the session reported an invalid hash ({digest!r:.40})"
            raise FileTransferError(message, hint="try again in a new session")
        return {"size": size, "sha256": digest}
    message, kind = f"cannot move {name!r}: {str(report['failed'])[:200]}", report.get("kind")
    if kind == "missing":
        raise SessionFileNotFoundError(message)
    if kind == "unreachable":
        raise UnreachableError(message)
    raise FileTransferError(message)


def _build_file_info(name: str, report: dict[str, Any], route: Route) -> FileInfo:
    logger.info("file: %d bytes by %s", report["size"], route)
    return FileInfo(name, report["size"], guess_media_type(name), None, report["sha256"], route)


def _halve_progress(on_progress: ProgressHandler, size: int | None = None) -> ProgressHandler:
    """Report the progress of one of two halves, each of which counts as half of the bytes.

    Args:
        on_progress: Called with the bytes so far of the whole transfer.
        size: Size of the file in bytes in the second half, None in the first.
    """
    before = 0 if size is None else size
    return lambda done: on_progress((before + done) // 2)


def _ignore_progress(_: int) -> None:
    """Do nothing."""
