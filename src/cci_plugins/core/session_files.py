"""The files of one session, and the inputs that are put back after a loss."""

from __future__ import annotations

import asyncio
import tempfile
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Protocol, overload

import anyio

from cci_plugins.common import event_loop
from cci_plugins.common.file_names import normalize_new_name, parse_url_file_name, validate_name
from cci_plugins.common.limits import MIB, Limits
from cci_plugins.common.urls import SecretUrl
from cci_plugins.errors import FileTransferError, SessionFileNotFoundError
from cci_plugins.files.file_transfer import FileTransfer
from cci_plugins.files.source import (
    CHUNK,
    Uploadable,
    UploadSource,
    check_folder_size,
    get_default_name,
    make_source,
)
from cci_plugins.files.target import create_file, resolve_target
from cci_plugins.models import FileInfo, SharedFile
from cci_plugins.pools.base import SessionPool

MAX_KEPT_INPUT_BYTES = 64 * MIB  # of inputs that were given as bytes, so that they can be put back
DEFAULT_SHARE_DURATION = timedelta(minutes=10)
MAX_SHARE_DURATION = timedelta(days=1)  # older copies are deleted by the storage's lifecycle rule

ProgressHandler = Callable[[int], object]
"""Told the bytes moved so far."""


class Owner(Protocol):
    """What a session needs of the interpreter that made it."""

    @property
    def limits(self) -> Limits:
        """Bounds of runs and files."""
        ...

    async def _get_pool(self) -> SessionPool:
        """The started pool."""
        ...

    async def _get_file_transfer(self) -> FileTransfer:
        """What moves files into and out of that pool."""
        ...


class SessionFiles:
    """The files of one session; they lie in its working directory, `/mnt/data`."""

    def __init__(self, owner: Owner, identifier: str, use: Callable[[int], None]) -> None:
        self._owner = owner
        self._id = identifier
        self._use = use
        self._inputs: dict[str, UploadSource | SecretUrl | None] = {}
        self._digests: dict[str, str | None] = {}

    async def upload(
        self,
        source: Uploadable,
        *,
        name: str | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> FileInfo:
        """Write a file into the session.

        Args:
            source: A path on this machine, the bytes, a binary file object, or an asynchronous
                iterator of bytes. A folder arrives as a zip.
            name: Its name in the session; a path keeps its own file name.
            on_progress: Told the bytes moved so far.

        Raises:
            UnsafeNameError: The name would leave the session's folder, or is reserved.
            FileTooLargeError: No route to the session takes so much, or it does not fit.
            FileTransferError: The file cannot be read, or did not arrive.
        """
        report_progress = _bind_to_current_loop(on_progress)
        name = normalize_new_name(
            _require_name(name or await anyio.to_thread.run_sync(get_default_name, source))
        )
        file_transfer = await event_loop.dispatch(self._owner._get_file_transfer)
        prepared = await make_source(source, limit=file_transfer.max_file_bytes)
        return await event_loop.dispatch(self._upload, name, prepared, report_progress)

    async def fetch(
        self,
        url: str | SecretUrl,
        *,
        name: str | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> FileInfo:
        """Have the session fetch a URL of yours; never pass one that a model wrote.

        Args:
            url: An HTTPS address on a host that may be asked: storage accounts, and those of
                `CCI_FETCH_HOSTS`. Its signature is shown to nobody.
            name: Its name in the session; the last part of the address when None.
            on_progress: Told the bytes moved so far.

        Raises:
            FileTransferError: The address is refused, or the file did not arrive.
        """
        link = url if isinstance(url, SecretUrl) else SecretUrl(url)
        name = normalize_new_name(_require_name(name or parse_url_file_name(link.path)))
        return await event_loop.dispatch(
            self._fetch, link, name, _bind_to_current_loop(on_progress)
        )

    @overload
    async def download(
        self, name: str, *, overwrite: bool = ..., on_progress: ProgressHandler | None = ...
    ) -> bytes: ...

    @overload
    async def download(
        self,
        name: str,
        *,
        to: str | PathLike[str],
        overwrite: bool = ...,
        on_progress: ProgressHandler | None = ...,
    ) -> Path: ...

    async def download(
        self,
        name: str,
        *,
        to: str | PathLike[str] | None = None,
        overwrite: bool = False,
        on_progress: ProgressHandler | None = None,
    ) -> bytes | Path:
        """Read a file out of the session.

        Args:
            name: Its name in the session. A folder comes as a zip.
            to: Where to write it, whole or not at all, instead of returning it: a file path on
                this machine, or a folder that is there or ends in `/`.
            overwrite: Replace what is there.
            on_progress: Told the bytes moved so far.

        Returns:
            The bytes, or the path that was written.

        Raises:
            SessionFileNotFoundError: The session has no such file.
            TargetExistsError: The target is there, and `overwrite` is False.
            FileTooLargeError: No route from the session takes so much.
            FileTransferError: It did not arrive, or the target cannot be written.
        """
        name, report_progress = validate_name(name), _bind_to_current_loop(on_progress)
        if to is None:
            with tempfile.TemporaryDirectory(prefix="cci-") as folder:
                path = Path(folder, "content")
                await event_loop.dispatch(self._download, name, path, report_progress)
                return await anyio.to_thread.run_sync(path.read_bytes)
        target = await anyio.to_thread.run_sync(resolve_target, to, name)
        with create_file(target, overwrite=overwrite) as part:
            await event_loop.dispatch(self._download, name, part, report_progress)
        return target

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """Read a file out of the session in pieces; they begin when it has arrived here.

        Raises:
            SessionFileNotFoundError: The session has no such file.
        """
        with tempfile.TemporaryDirectory(prefix="cci-") as folder:
            path = Path(folder, "content")
            await event_loop.dispatch(self._download, validate_name(name), path, _ignore_progress)
            async with await anyio.open_file(path, "rb") as file:
                while piece := await file.read(CHUNK):
                    yield piece

    async def list(self) -> Sequence[FileInfo]:
        """List the session's files by name."""
        return await event_loop.dispatch(self._list)

    async def remove(self, name: str) -> None:
        """Remove a file from the session.

        Raises:
            SessionFileNotFoundError: The session has no such file.
        """
        await event_loop.dispatch(self._remove, validate_name(name))

    async def share(
        self, name: str, *, expires_in: timedelta = DEFAULT_SHARE_DURATION
    ) -> SharedFile:
        """Make a link for a person: whoever has it can read a copy of the file.

        Args:
            name: Its name in the session.
            expires_in: How long the link is good; at most a day.

        Raises:
            ConfigurationError: No storage is configured.
            FileTransferError: The time is too long, or the copy could not be made.
        """
        if not timedelta(0) < expires_in <= MAX_SHARE_DURATION:
            raise FileTransferError("a link is good for more than nothing and at most a day")
        return await event_loop.dispatch(self._share, validate_name(name), expires_in)

    async def unshare(self, shared: SharedFile) -> None:
        """Delete the copy that a link leads to."""
        await event_loop.dispatch(self._unshare, shared)

    async def _restore_inputs(self) -> tuple[Sequence[str], Sequence[str]]:
        """Upload again what was uploaded to a session that is gone.

        Returns:
            Names of the files that are back, and of those that are no longer at hand.
        """
        names = sorted(self._inputs)
        missing = [name for name in names if not await self._restore_input(name)]
        for name in missing:
            self._forget_input(name)
        return [name for name in names if name not in missing], missing

    async def _restore_input(self, name: str) -> bool:
        given, digest = self._inputs[name], self._digests.get(name)
        try:
            if isinstance(given, SecretUrl):
                info = await self._fetch_url(given, name, _ignore_progress)
            elif given is None or not await anyio.to_thread.run_sync(given.is_unchanged):
                return False  # the file changed since: its content would be another one
            else:
                info = await self._send(name, given, _ignore_progress)
            if digest is not None and info.sha256 not in {digest, None}:
                await (await self._owner._get_pool()).delete_file(self._id, name)
                return False
        except FileTransferError:
            return False
        return True

    def _forget_inputs(self) -> None:
        """Forget what was uploaded."""
        for name in list(self._inputs):
            self._forget_input(name)

    def _forget_input(self, name: str) -> None:
        given = self._inputs.pop(name, None)
        self._digests.pop(name, None)
        if isinstance(given, UploadSource):
            given.close()

    def _remember_input(self, name: str, given: UploadSource | SecretUrl, info: FileInfo) -> None:
        self._forget_input(name)
        memory_bytes = sum(
            old.memory_bytes for old in self._inputs.values() if isinstance(old, UploadSource)
        )
        fits = (
            not isinstance(given, UploadSource)
            or memory_bytes + given.memory_bytes <= MAX_KEPT_INPUT_BYTES
        )
        self._inputs[name] = given if fits else None
        self._digests[name] = info.sha256

    async def _upload(
        self, name: str, given: UploadSource, report_progress: ProgressHandler
    ) -> FileInfo:
        try:
            info = await self._send(name, given, report_progress)
        except BaseException:
            given.close()
            raise
        self._remember_input(name, given, info)
        return info

    async def _send(
        self, name: str, given: UploadSource, report_progress: ProgressHandler
    ) -> FileInfo:
        async with _InUse(self._use):
            return await (await self._owner._get_file_transfer()).upload(
                self._id, name, given, report_progress
            )

    async def _fetch(
        self, link: SecretUrl, name: str, report_progress: ProgressHandler
    ) -> FileInfo:
        info = await self._fetch_url(link, name, report_progress)
        self._remember_input(name, link, info)
        return info

    async def _fetch_url(
        self, link: SecretUrl, name: str, report_progress: ProgressHandler
    ) -> FileInfo:
        file_transfer = await self._owner._get_file_transfer()
        with tempfile.TemporaryDirectory(prefix="cci-") as folder:
            async with _InUse(self._use):
                return await file_transfer.fetch(
                    self._id, link, name, Path(folder), report_progress
                )

    async def _download(self, name: str, path: Path, report_progress: ProgressHandler) -> None:
        file_transfer = await self._owner._get_file_transfer()
        async with _InUse(self._use):
            try:
                await file_transfer.download(self._id, name, path, report_progress)
            except SessionFileNotFoundError:
                members = [info for info in await self._list_files() if _is_in(info.name, name)]
                if not members:
                    raise
                await self._zip(file_transfer, members, path)

    async def _zip(
        self, file_transfer: FileTransfer, files: Sequence[FileInfo], path: Path
    ) -> None:
        """Put a session's folder into a zip."""
        names = sorted({validate_name(info.name) for info in files})
        check_folder_size(
            len(names), sum(info.size for info in files), file_transfer.max_file_bytes
        )
        part, size = path.with_name("member"), 0
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                size += (await file_transfer.download(self._id, name, part, _ignore_progress)).size
                check_folder_size(
                    len(names), size, file_transfer.max_file_bytes
                )  # it need not be what was listed
                await anyio.to_thread.run_sync(archive.write, part, name)
        part.unlink(missing_ok=True)

    async def _list(self) -> Sequence[FileInfo]:
        async with _InUse(self._use):
            return await self._list_files()

    async def _list_files(self) -> Sequence[FileInfo]:
        return await (await self._owner._get_pool()).list_files(self._id)

    async def _remove(self, name: str) -> None:
        async with _InUse(self._use):
            await (await self._owner._get_pool()).delete_file(self._id, name)
        self._forget_input(name)

    async def _share(self, name: str, expires_in: timedelta) -> SharedFile:
        file_transfer = await self._owner._get_file_transfer()
        with tempfile.TemporaryDirectory(prefix="cci-") as folder:
            async with _InUse(self._use):
                return await file_transfer.share(self._id, name, expires_in, Path(folder))

    async def _unshare(self, shared: SharedFile) -> None:
        await (await self._owner._get_file_transfer()).unshare(shared)


@dataclass(frozen=True, slots=True)
class _InUse:
    """Marks a session as in use during a transfer."""

    use: Callable[[int], None]

    async def __aenter__(self) -> None:
        self.use(1)

    async def __aexit__(self, *_: object) -> None:
        self.use(-1)


def _require_name(name: str | None) -> str:
    if not name:
        raise FileTransferError("it needs a name in the session", hint="pass name='data.csv'")
    return name


def _is_in(name: str, folder: str) -> bool:
    return name.startswith(f"{folder.rstrip('/')}/")


def _ignore_progress(_: int) -> None:
    """Nobody wants to know."""


def _bind_to_current_loop(handler: ProgressHandler | None) -> ProgressHandler:
    """Hand progress to the caller's loop, in order."""
    if handler is None:
        return _ignore_progress
    loop = asyncio.get_running_loop()

    def forward(done: int) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(handler, done)

    return forward
