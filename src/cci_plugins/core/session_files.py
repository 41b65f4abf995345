"""The files of one session, as an application uses them."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import overload

from cci_plugins.common.async_files import open_file
from cci_plugins.common.data_url import is_data_url, parse_data_url
from cci_plugins.common.durations import Duration, to_timedelta
from cci_plugins.common.file_names import (
    is_safe_name,
    normalize_new_name,
    parse_url_file_name,
    strip_folder,
    validate_name,
)
from cci_plugins.common.log import logger
from cci_plugins.common.temporary import make_temporary_folder
from cci_plugins.common.threads import run_in_thread
from cci_plugins.common.urls import SecretUrl
from cci_plugins.errors import FileTransferError, SessionFileNotFoundError, UnsafeNameError
from cci_plugins.files.file_transfer import FileTransfer, ProgressHandler
from cci_plugins.files.source import (
    CHUNK,
    Uploadable,
    check_folder_size,
    get_default_name,
    make_source,
)
from cci_plugins.files.target import create_file, resolve_target, translate_write_errors
from cci_plugins.models import FileInfo, SharedFile

from .session_handle import SessionHandle, count_transfer, ignore_progress
from .session_host import bind_to_current_loop

DEFAULT_SHARE_DURATION = timedelta(minutes=10)
MAX_SHARE_DURATION = timedelta(days=1)  # the storage's lifecycle rule deletes older copies


class SessionFiles:
    """The files in a session's working directory, `/mnt/data`.

    A file's name is its path below that folder. The whole path works, too.

    Example:
        ```python
        files = interpreter.session("alice").files
        await files.upload(b"a,b", name="data.csv")
        assert await files.download("data.csv") == b"a,b"
        ```
    """

    def __init__(self, handle: SessionHandle) -> None:
        self._handle = handle
        self._host = handle.host

    @property
    def _id(self) -> str:
        return self._handle.id

    async def upload(
        self,
        source: Uploadable,
        *,
        name: str | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> FileInfo:
        """Write a file into the session.

        Args:
            source: A path on this machine, the bytes, a binary file object, or a generator of
                bytes, blocking or asynchronous. A folder arrives as a zip.
            name: Its name in the session. A path keeps its own file name.
            on_progress: Called with the number of bytes transferred so far.

        Raises:
            UnsafeNameError: The name would leave the session's folder, or is reserved.
            FileTooLargeError: No route to the session accepts this size, or it does not fit.
            FileTransferError: The file cannot be read, or did not arrive.
        """
        report_progress = _bind(on_progress)
        name = normalize_new_name(
            _require_name(name or await run_in_thread(get_default_name, source))
        )
        file_transfer = await self._host.dispatch(self._host.get_file_transfer)
        prepared = await make_source(source, limit=file_transfer.max_file_bytes)
        return await self._host.dispatch(self._handle.upload, name, prepared, report_progress)

    async def fetch(
        self,
        url: str | SecretUrl,
        *,
        name: str | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> FileInfo:
        """Have the session fetch a URL of yours. Never pass one that a model wrote.

        Args:
            url: An HTTPS address on an allowed host: a storage account, or a host of
                `CCI_FETCH_HOSTS`. Its signature stays secret. A data URL such as
                `data:text/csv;base64,...` is uploaded from this machine.
            name: Its name in the session. None means the last part of the address, or `data`
                with the suffix of a data URL's media type.
            on_progress: Called with the number of bytes transferred so far.

        Raises:
            FileTransferError: The address is refused, or the file did not arrive.
        """
        if is_data_url(url):
            data = parse_data_url(str(url))
            return await self.upload(
                data.content, name=name or data.file_name, on_progress=on_progress
            )
        link = url if isinstance(url, SecretUrl) else SecretUrl(url)
        name = normalize_new_name(_require_name(name or parse_url_file_name(link.path)))
        return await self._host.dispatch(self._handle.fetch, link, name, _bind(on_progress))

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
            name: Its name in the session. A folder is returned as a zip.
            to: Where to write it instead of returning its bytes. Either a file path on this
                machine, or a folder that exists or ends in `/`. The file is written whole or not
                at all.
            overwrite: Replace an existing file.
            on_progress: Called with the number of bytes transferred so far.

        Returns:
            The bytes, or the path that was written.

        Raises:
            SessionFileNotFoundError: The session has no such file.
            TargetExistsError: The target exists and `overwrite` is false.
            FileTooLargeError: No route from the session accepts this size.
            FileTransferError: The file did not arrive, or the target cannot be written.
        """
        name, report_progress = _check_name(name), _bind(on_progress)
        if to is None:
            with make_temporary_folder() as folder:
                path = Path(folder, "content")
                with translate_write_errors(path):
                    await self._host.dispatch_until_ended(
                        self._download, name, path, report_progress
                    )
                return await run_in_thread(path.read_bytes)
        target = await run_in_thread(resolve_target, to, name)
        with create_file(target, overwrite=overwrite) as part:
            await self._host.dispatch_until_ended(self._download, name, part, report_progress)
        return target

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """Yield a file in chunks, once all of it has arrived on this machine.

        Args:
            name: Its name in the session.

        Raises:
            SessionFileNotFoundError: The session has no such file.
        """
        with make_temporary_folder() as folder:
            path = Path(folder, "content")
            with translate_write_errors(path):
                await self._host.dispatch_until_ended(
                    self._download, _check_name(name), path, ignore_progress
                )
            async with open_file(path, "rb") as file:
                while chunk := await file.read(CHUNK):
                    yield chunk

    async def list(self) -> Sequence[FileInfo]:
        """List the session's files by name."""
        return await self._host.dispatch(self._list)

    async def remove(self, name: str) -> None:
        """Remove a file from the session.

        Args:
            name: Its name in the session.

        Raises:
            SessionFileNotFoundError: The session has no such file.
        """
        await self._host.dispatch(self._remove, _check_name(name))

    async def share(
        self, name: str, *, expires_in: Duration = DEFAULT_SHARE_DURATION
    ) -> SharedFile:
        """Create a link for a person. Anyone who has it can read a copy of the file.

        Args:
            name: Its name in the session.
            expires_in: How long the link works, at most one day. A number means seconds.

        Raises:
            ConfigurationError: No storage is configured.
            FileTransferError: The time is too long, or the copy failed.
        """
        expires_in = to_timedelta(expires_in, "expires_in", allow_zero=True)
        if not timedelta(0) < expires_in <= MAX_SHARE_DURATION:
            raise FileTransferError(
                f"expires_in must be more than 0 and at most 1 day, not {expires_in}",
                hint="pass expires_in=timedelta(hours=1)",
            )
        return await self._host.dispatch(self._share, _check_name(name), expires_in)

    async def unshare(self, shared: SharedFile) -> None:
        """Delete the copy that a link leads to.

        Args:
            shared: What `share` returned.
        """
        await self._host.dispatch(self._unshare, shared)

    async def _download(self, name: str, path: Path, report_progress: ProgressHandler) -> None:
        file_transfer = await self._host.get_file_transfer()
        with self._handle.in_use():
            await self._handle.begin()
            try:
                info = await file_transfer.download(self._id, name, path, report_progress)
                count_transfer(info, "out")
            except SessionFileNotFoundError:
                files = await (await self._host.get_pool()).list_files(self._id)
                members = [info for info in files if _is_in(info.name, name)]
                if not members:
                    raise
                await self._zip(file_transfer, members, path)

    async def _zip(
        self, file_transfer: FileTransfer, files: Sequence[FileInfo], path: Path
    ) -> None:
        """Write the files of a session's folder into a zip."""
        names = sorted({info.name for info in files if is_safe_name(info.name)})
        _report_skipped_files(sorted({info.name for info in files} - {*names}), is_all=not names)
        limit = file_transfer.max_file_bytes
        check_folder_size(len(names), sum(info.size for info in files), limit)
        part, size = path.with_name("member"), 0
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                info = await file_transfer.download(self._id, name, part, ignore_progress)
                size += count_transfer(info, "out").size
                check_folder_size(len(names), size, limit)  # files may have grown since the list
                await run_in_thread(archive.write, part, name)
        part.unlink(missing_ok=True)

    async def _list(self) -> Sequence[FileInfo]:
        with self._handle.in_use():
            await self._handle.begin()
            return await (await self._host.get_pool()).list_files(self._id)

    async def _remove(self, name: str) -> None:
        with self._handle.in_use():
            await self._handle.begin()
            await (await self._host.get_pool()).delete_file(self._id, name)
        self._handle.forget_upload(name)

    async def _share(self, name: str, expires_in: timedelta) -> SharedFile:
        file_transfer = await self._host.get_file_transfer()
        with make_temporary_folder() as folder, self._handle.in_use():
            await self._handle.begin()
            return await file_transfer.share(self._id, name, expires_in, Path(folder))

    async def _unshare(self, shared: SharedFile) -> None:
        await (await self._host.get_file_transfer()).unshare(shared)


def _require_name(name: str | None) -> str:
    if not name:
        raise FileTransferError("the file needs a name in the session", hint="pass name='data.csv'")
    return strip_folder(name)


def _check_name(name: str) -> str:
    return validate_name(strip_folder(name))


def _is_in(name: str, folder: str) -> bool:
    return name.startswith(f"{folder.rstrip('/')}/")


def _report_skipped_files(names: Sequence[str], *, is_all: bool) -> None:
    """Warn about the files that a zip leaves out, because their names are not safe."""
    if not names:
        return
    shown = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")  # noqa: PLR2004
    text = f"the zip leaves out {len(names)} files whose names are not safe: {shown}"
    if is_all:
        raise UnsafeNameError(text, hint="rename them in the session")
    logger.warning("%s", text)


def _bind(on_progress: ProgressHandler | None) -> ProgressHandler:
    return ignore_progress if on_progress is None else bind_to_current_loop(on_progress)
