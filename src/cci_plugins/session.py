"""One conversation's session: run code, move files, end it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import copy_context
from dataclasses import replace
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Protocol

import anyio

from . import portal
from .errors import FileTooLargeError, FileTransferError
from .files.names import safe_name
from .limits import Limits
from .models import Execution, FileInfo, OutputEvent
from .notebook import Notebook
from .pools.base import OutputHandler, SessionPool
from .telemetry import execution_span, record_execution

CHUNK = 256 * 1024
LEFT = (
    "this conversation was idle, or its session was needed for another one; "
    "variables and files of earlier calls are gone"
)


class Owner(Protocol):
    """What a session needs of the interpreter that made it."""

    @property
    def limits(self) -> Limits:
        """Bounds of runs and files."""
        ...

    async def pool(self) -> SessionPool:
        """The started pool."""
        ...


class Session:
    """One stateful Python session: variables and files last from run to run.

    Made by `CodeInterpreter.session`; one run at a time, further ones wait their turn.

    Attributes:
        key: The conversation, as the application names it.
        id: The derived identifier that the pool knows.
        files: The session's files.
    """

    def __init__(
        self,
        owner: Owner,
        key: str,
        identifier: str,
        forget: Callable[[], None],
        *,
        lost: bool = False,
    ) -> None:
        self.key = key
        self.id = identifier
        self.files = SessionFiles(owner, identifier, self._use)
        self._owner = owner
        self._forget = forget
        self._lost = lost
        self._users = 0
        self._turn: anyio.Lock | None = None
        self._notebook = Notebook()

    def __repr__(self) -> str:
        return f"Session(id={self.id!r})"

    @property
    def busy(self) -> bool:
        """Whether a run or a transfer is under way."""
        return self._users > 0

    async def run_code(
        self,
        code: str,
        *,
        timeout: timedelta | None = None,
        on_output: OutputHandler | None = None,
    ) -> Execution:
        """Run code in this session and wait for its end.

        An exception of the code, a time-out and a crash are told on the `Execution`
        (`error`, `status`, `state`), not raised. Cancelling the call interrupts the code.

        Args:
            code: Python source; IPython syntax such as `%timeit` works too.
            timeout: Longest run; `Limits.execution_timeout` when None.
            on_output: Called with each piece of output while the code runs, on the caller's loop.

        Raises:
            PoolUnavailableError: Nothing was started; the call may be made again.
            PoolExhaustedError: No session is free.
            AuthenticationError: The pool refused the key or the token.
            IsolationError: This machine offers no fence.

        Example:
            ```python
            execution = await interpreter.session("alice").run_code("6 * 7")
            assert execution.text == "42"
            ```
        """
        handler = None if on_output is None else _on_this_loop(on_output)
        return await portal.carry(self.run_at_home, code, timeout, handler)

    async def run_at_home(
        self, code: str, timeout: timedelta | None, on_output: OutputHandler | None
    ) -> Execution:
        """`run_code`, for callers that are on the portal's loop already."""
        limit = self._owner.limits.execution_timeout if timeout is None else timeout
        async with _Turn(self):
            pool = await self._owner.pool()
            if self._lost:
                await pool.delete_session(self.id)  # what was told to be gone must be gone
            with execution_span(self.id, pool.capabilities.name) as span:
                execution = await pool.execute(self.id, code, timeout=limit, on_output=on_output)
                record_execution(span, execution)
            if self._lost:
                self._lost = False
                execution = replace(execution, state="lost", notes=(LEFT, *execution.notes))
            if execution.state == "lost" and (gone := self.files.forget_uploads()):
                note = f"uploaded files are gone: {', '.join(gone)}; upload them again"
                execution = replace(execution, notes=(*execution.notes, note))
        self._notebook.add(code, execution)
        return execution

    def notebook(self) -> str:
        """The session's history so far as a Jupyter notebook, in nbformat 4 JSON."""
        return self._notebook.to_json()

    async def delete(self) -> None:
        """End the session now and free its place in the pool; running it again starts anew."""
        await portal.carry(self.delete_at_home)

    async def delete_at_home(self) -> None:
        """`delete`, for callers that are on the portal's loop already."""
        async with _Turn(self):
            await (await self._owner.pool()).delete_session(self.id)
            self._forget()

    def _use(self, change: int) -> None:
        self._users += change

    def turn(self) -> anyio.Lock:
        """The lock that lets one run in at a time; made on the portal's loop."""
        if self._turn is None:
            self._turn = anyio.Lock()
        return self._turn


class _Turn:
    """Waiting for and holding a session's turn counts as using it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def __aenter__(self) -> None:
        self._session._use(1)  # noqa: SLF001 - same module, one job
        try:
            await self._session.turn().acquire()
        except BaseException:
            self._session._use(-1)  # noqa: SLF001
            raise

    async def __aexit__(self, *_: object) -> None:
        self._session.turn().release()
        self._session._use(-1)  # noqa: SLF001


class SessionFiles:
    """The files of one session; they lie in its working directory, `/mnt/data`."""

    def __init__(self, owner: Owner, identifier: str, use: Callable[[int], None]) -> None:
        self._owner = owner
        self._id = identifier
        self._use = use
        self._uploaded: dict[str, None] = {}

    async def upload(
        self, source: str | PathLike[str] | bytes, *, name: str | None = None
    ) -> FileInfo:
        """Write a file into the session.

        Args:
            source: A path on this machine, or the bytes themselves.
            name: Its name in the session; a path keeps its own file name.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            FileTooLargeError: It is larger than `Limits.file_bytes`, or does not fit.
            FileTransferError: The file cannot be read.
        """
        if isinstance(source, bytes):
            if name is None:
                raise FileTransferError("bytes need a name", hint="pass name='data.csv'")
            content, size = _pieces(source), len(source)
        else:
            path = Path(source)
            content, size = _read(path), await anyio.to_thread.run_sync(_file_size, path)
            name = path.name if name is None else name
        self._check_size(name, size)
        return await portal.carry(self._upload, safe_name(name), content)

    async def download(self, name: str, *, to: str | PathLike[str] | None = None) -> bytes:
        """Read a file out of the session.

        Args:
            name: Its name in the session.
            to: Where to write it as well: a file path on this machine; folders are made.

        Raises:
            SessionFileNotFoundError: The session has no such file.
            FileTooLargeError: It is larger than `Limits.file_bytes`.
            FileTransferError: The target cannot be written.
        """
        data = await portal.carry(self._download, safe_name(name))
        if to is not None:
            await anyio.to_thread.run_sync(_write, Path(to), data)
        return data

    async def list(self) -> Sequence[FileInfo]:
        """List the session's files by name."""
        return await portal.carry(self._list)

    async def remove(self, name: str) -> None:
        """Remove a file from the session.

        Raises:
            SessionFileNotFoundError: The session has no such file.
        """
        await portal.carry(self._remove, safe_name(name))

    def forget_uploads(self) -> tuple[str, ...]:
        """Names of what was uploaded and is gone with a lost session; asked once."""
        gone, self._uploaded = tuple(sorted(self._uploaded)), {}
        return gone

    async def _upload(self, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        async with _Using(self._use):
            info = await (await self._owner.pool()).upload(self._id, name, content)
        self._uploaded[name] = None
        return info

    async def _download(self, name: str) -> bytes:
        data = bytearray()
        async with _Using(self._use):
            async for piece in (await self._owner.pool()).download(self._id, name):
                data += piece
                self._check_size(name, len(data))
        return bytes(data)

    async def _list(self) -> Sequence[FileInfo]:
        async with _Using(self._use):
            return await (await self._owner.pool()).list_files(self._id)

    async def _remove(self, name: str) -> None:
        async with _Using(self._use):
            await (await self._owner.pool()).delete_file(self._id, name)
        self._uploaded.pop(name, None)

    def _check_size(self, name: str, size: int) -> None:
        limit = self._owner.limits.file_bytes
        if size > limit:
            raise FileTooLargeError(
                f"{name} is larger than {limit:,} bytes",
                size=size,
                limit=limit,
                hint="raise Limits.file_bytes",
            )


class _Using:
    """Marks a session as in use during a transfer."""

    def __init__(self, use: Callable[[int], None]) -> None:
        self._use = use

    async def __aenter__(self) -> None:
        self._use(1)

    async def __aexit__(self, *_: object) -> None:
        self._use(-1)


def _on_this_loop(handler: OutputHandler) -> OutputHandler:
    """Hand events to the caller's loop and context, in order and before the call returns."""
    loop, context = asyncio.get_running_loop(), copy_context()

    def hand_over(event: OutputEvent) -> None:
        loop.call_soon_threadsafe(handler, event, context=context)

    return hand_over


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise FileTransferError(f"cannot read {path}: {error.strerror}") from error


async def _read(path: Path) -> AsyncIterator[bytes]:
    try:
        async with await anyio.open_file(path, "rb") as file:
            while piece := await file.read(CHUNK):
                yield piece
    except OSError as error:
        raise FileTransferError(f"cannot read {path}: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise FileTransferError(f"cannot write {path}: {error.strerror}") from error
