"""Files in and out of sessions, each by the cheapest safe route."""

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
from .sas import SasPolicy, SecretUrl, accept
from .source import PathSource, UploadSource

if TYPE_CHECKING:
    from .blob import BlobStorage

LOCAL_TRANSFER_SECONDS = 3600.0
CANCEL_WAIT_SECONDS = 5.0
MAX_UNREACHABLE_SESSIONS = 10_000  # sessions that cannot reach the storage
_DIGEST = re.compile(r"[0-9a-f]{64}")
ProgressHandler = Callable[[int], object]


class UnreachableError(FileTransferError):
    """The session cannot reach the host at all."""


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How files may move.

    Attributes:
        storage: Where larger ones are staged; nowhere when None.
        stage_from: Bytes from which files are staged though the pool has a files API.
        fetch: Which URLs may be fetched into sessions.
    """

    storage: BlobStorage | None = None
    stage_from: int | None = None
    fetch: SasPolicy = field(default_factory=SasPolicy)


class Bridge:
    """Moves files between this machine, sessions and storage.

    Routes: the pool's own files API (`endpoint`); the session's code, within one call (`inline`)
    or several (`pieces`); a blob that lives for this transfer (`blob`).

    Args:
        pool: Whose sessions.
        limits: The bounds of each route.
        options: Where to stage, and what may be fetched.
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
        """Bytes of the largest file that may move at all."""
        limits = self._limits
        own = max(limits.file_bytes, limits.pieces_bytes)
        return own if self._storage is None else max(own, limits.staged_bytes)

    async def upload(
        self, session_id: str, name: str, source: UploadSource, on_progress: ProgressHandler
    ) -> FileInfo:
        """Write a file into a session.

        Raises:
            FileTooLargeError: No route takes it.
            FileTransferError: It did not arrive; nothing of that name was changed.
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
        async with await anyio.open_file(path, "wb") as file, aclosing(stream.chunks()) as chunks:
            async for chunk in chunks:
                await file.write(chunk)
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
        """Fetch a URL of the user's into a session.

        Args:
            session_id: The session.
            url: HTTPS, on a host that the policy lets through.
            name: The file's name in the session.
            folder: Where it may be put on its way, when the session has no network.
            told: Told the bytes so far.

        Raises:
            FileTransferError: The policy refuses it, or it did not arrive.
        """
        link = accept(url, self._policy)
        job = {
            "verb": "get",
            "url": link.reveal(),
            "limit": self.max_file_bytes,
            "public_only": not self._policy.allow_private,
            "ca": None if self._storage is None else self._storage.ca,
        }
        if self._pool.capabilities.egress is not False:
            report = await transfer_in_session(
                self._pool, session_id, {**job, "name": name}, on_progress
            )
            if report.get("kind") != "unreachable":
                return _build_file_info(name, _check_report(report, name), "direct")
        path = folder / "fetched"
        await self._run_locally({**job, "path": str(path)}, name, on_progress)
        source = await anyio.to_thread.run_sync(PathSource, path)
        return replace(await self.upload(session_id, name, source, on_progress), route="relayed")

    async def share(
        self, session_id: str, name: str, expires_in: timedelta, folder: Path
    ) -> SharedFile:
        """Put a copy of a session's file where a link leads to it.

        Args:
            session_id: The session.
            name: The file.
            expires_in: How long the link is good.
            folder: Where the file may be put on its way.

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
        job = {"verb": "put", "path": str(path), "ca": storage.ca}
        link = await storage.link(blob, "cw", timedelta(hours=1))
        leaf = name.rpartition("/")[2]
        try:
            await self._run_locally({**job, "url": link.reveal()}, name, _ignore_progress)
            url = await storage.link(blob, "r", expires_in, download_as=leaf)
        except BaseException:
            with anyio.CancelScope(shield=True), anyio.move_on_after(30):
                await storage.delete(blob)
            raise
        return SharedFile(leaf, info.size, url, datetime.now(UTC) + expires_in, blob)

    async def unshare(self, shared: SharedFile) -> None:
        """Delete the copy, so that its link leads nowhere."""
        if self._storage is not None:
            await self._storage.delete(shared.blob)

    async def aclose(self) -> None:
        """Close the storage."""
        if self._storage is not None:
            await self._storage.aclose()

    async def _upload_by_blob(
        self, session_id: str, name: str, source: UploadSource, on_progress: ProgressHandler
    ) -> FileInfo:
        storage = self._require_storage()
        async with storage.staged(source.size) as blob:
            url = (await blob.link("cw")).reveal()
            async with source.path() as path:
                job = {"verb": "put", "url": url, "path": str(path), "ca": storage.ca}
                sent = await self._run_locally(job, name, _halve_progress(on_progress))
            if sent["size"] != source.size:
                raise FileTransferError(f"{name!r} changed while it was uploaded")
            job = {"verb": "get", "url": (await blob.link("r")).reveal(), "name": name}
            job |= {"size": sent["size"], "sha256": sent["sha256"], "ca": storage.ca}
            report = await self._run_in_session(
                session_id, job, _halve_progress(on_progress, sent["size"])
            )
        if report != sent:
            raise FileTransferError(f"{name!r} did not arrive as it was sent")
        on_progress(source.size)
        return _build_file_info(name, report, "blob")

    async def _download_by_blob(
        self, session_id: str, name: str, path: Path, on_progress: ProgressHandler
    ) -> FileInfo:
        storage = self._require_storage()
        async with storage.staged(await self._get_size(session_id, name)) as blob:
            url = (await blob.link("cw")).reveal()
            job = {"verb": "put", "url": url, "name": name, "ca": storage.ca}
            sent = await self._run_in_session(session_id, job, _halve_progress(on_progress))
            limit = self._limits.staged_bytes
            if sent["size"] > limit:
                raise self._build_too_large_error(sent["size"], has_files_api=False)
            url = (await blob.link("r")).reveal()
            job = {"verb": "get", "url": url, "path": str(path), "ca": storage.ca}
            await self._run_locally(
                job | sent | {"limit": limit}, name, _halve_progress(on_progress, sent["size"])
            )
        return _build_file_info(name, sent, "blob")

    async def _run_in_session(
        self, session_id: str, job: dict[str, Any], on_progress: ProgressHandler
    ) -> dict[str, Any]:
        report = await transfer_in_session(self._pool, session_id, job, on_progress)
        return _check_report(report, job["name"])

    async def _run_locally(
        self, job: dict[str, Any], name: str, on_progress: ProgressHandler
    ) -> dict[str, Any]:
        try:
            return _check_report(await _transfer_locally(job, on_progress), name)
        except UnreachableError as error:
            raise FileTransferError(
                f"{name!r} was not moved: the host cannot be reached from this machine",
                hint="check the address and this machine's network",
            ) from error

    async def _choose_route(self, session_id: str, size: int) -> Route:
        """The cheapest route that takes a file of this size.

        Raises:
            FileTooLargeError: None does.
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
            return "endpoint"  # its size shows on the way
        return await self._choose_route(session_id, await self._get_size(session_id, name))

    async def _choose_fallback_route(self, session_id: str, size: int, error: Exception) -> Route:
        """The route when sessions turn out to have no way to the storage."""
        logger.info("files: sessions cannot reach the storage account; it is not used for this one")
        if len(self._unreachable_sessions) >= MAX_UNREACHABLE_SESSIONS:
            self._unreachable_sessions.clear()
        self._unreachable_sessions.add(session_id)  # not for all: it is the session's own word
        try:
            return await self._choose_route(session_id, size)
        except FileTooLargeError as too_large:
            raise too_large from error

    def _build_too_large_error(self, size: int, *, has_files_api: bool) -> FileTooLargeError:
        if self._storage is None:
            limit = self._limits.file_bytes if has_files_api else self._limits.pieces_bytes
            hint = "set AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_CONTAINER to stage larger files"
        elif size > self._limits.staged_bytes:
            limit, hint = self._limits.staged_bytes, "raise Limits.staged_bytes"
        else:
            limit = self._limits.file_bytes if has_files_api else self._limits.pieces_bytes
            hint = (
                "sessions cannot reach the storage account: allow it by CCI_EGRESS on the embedded "
                "pool, by sessionNetworkConfiguration EgressEnabled on Azure"
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
    """Pieces on their way: hashed, counted, and not too many."""

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
        """The pieces themselves."""
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
        """SHA-256 of what came by."""
        return self._hash.hexdigest()


async def _transfer_locally(job: dict[str, Any], on_progress: ProgressHandler) -> dict[str, Any]:
    """Do a transfer on this machine, in a thread that ends soon after a cancellation.

    It is waited for, so that no request is on its way when its blob is deleted.
    """
    begun, cancelled, ended = threading.Event(), threading.Event(), anyio.Event()

    def report_progress(done: int) -> None:
        if cancelled.is_set():
            raise TransferFault("broken", "it was given up")
        on_progress(done)

    def work() -> dict[str, Any]:
        begun.set()
        try:
            return transfer({"seconds": LOCAL_TRANSFER_SECONDS, **job}, report_progress)
        finally:
            with suppress(RuntimeError):  # its loop has ended
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


def _check_report(report: dict[str, Any], name: str) -> dict[str, Any]:
    """A report of success; a failure as an exception."""
    if "failed" not in report:
        size, digest = report.get("size"), report.get("sha256")
        if type(size) is not int or not 0 <= size < 1 << 62:
            raise FileTransferError(f"{name!r} was not moved: its size is none")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise FileTransferError(f"{name!r} was not moved: its hash is none")
        return {"size": size, "sha256": digest}
    message, kind = str(report["failed"])[:200], report.get("kind")
    if kind == "missing":
        raise SessionFileNotFoundError(f"{name!r} is not there: {message}")
    if kind == "unreachable":
        raise UnreachableError(f"{name!r} was not moved: {message}")
    raise FileTransferError(f"{name!r} was not moved: {message}")


def _build_file_info(name: str, report: dict[str, Any], route: Route) -> FileInfo:
    logger.info("file: %d bytes by %s", report["size"], route)
    return FileInfo(name, report["size"], guess_media_type(name), None, report["sha256"], route)


def _halve_progress(on_progress: ProgressHandler, size: int | None = None) -> ProgressHandler:
    """Progress of one of two halves of a way, told as half of the bytes."""
    before = 0 if size is None else size
    return lambda done: on_progress((before + done) // 2)


def _ignore_progress(_: int) -> None:
    """Nobody wants to know."""
