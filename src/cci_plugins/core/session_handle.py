"""The internals of one session that its public objects and its owner share.

`Session` and `SessionFiles` are what an application holds. Behind them is one `SessionHandle`. The
directory keeps it too, because it must know whether a session is busy and what to release.

A pool may lose a session: after an idle time, a crash or a move to another machine. The handle
therefore remembers each uploaded or fetched file, and `restore_uploads` sends them again before
the next run. A file comes back only if its content is certainly the same:

- A path is uploaded again if the file has not changed since.
- Bytes are kept in memory, at most `MAX_KEPT_UPLOAD_BYTES` of one session. Beyond that only the
  name is kept.
- A URL is fetched again. If the digest differs, the file is deleted from the session.

A file that cannot come back is reported by name once and then forgotten. Every coroutine runs on
the pool's event loop. `is_busy` and `was_used` may be read from any thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio

from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.common.limits import MIB
from cci_plugins.common.log import describe_error, logger
from cci_plugins.common.metrics import count_file
from cci_plugins.common.temporary import make_temporary_folder
from cci_plugins.common.urls import SecretUrl
from cci_plugins.errors import CodeInterpreterError, FileTransferError, PoolUnavailableError
from cci_plugins.files.file_transfer import ProgressHandler
from cci_plugins.files.source import UploadSource
from cci_plugins.models import Execution, FileInfo
from cci_plugins.pools.base import SessionPool, check_env_support

from .session_host import SessionHost

MAX_PAST_ENVIRONMENTS = 100
MAX_KEPT_UPLOAD_BYTES = 64 * MIB  # bytes in memory, of uploads that have no path to read again


class SessionHandle:
    """The identifier, the use and the uploads of one session.

    Args:
        host: The pool that the session lives in.
        key: The conversation, as the application names it.
        session_id: The identifier that the pool knows.
        is_stale: An earlier session of this key was evicted. The first call ends it.

    Attributes:
        on_fork: Called in a forked child with whether the session is lost.
        was_used: A run or a transfer was started, so the session may exist in the pool.
        instance: The pool's name for the instance that the next run requires, or None.
        env: Variables for the code, or None. Each run brings them.
        background_runs: The runs in the background that go on.
    """

    def __init__(
        self, host: SessionHost, key: str, session_id: str, *, is_stale: bool = False
    ) -> None:
        self.host = host
        self.key = key
        self.id = session_id
        self.was_used = False
        self.instance: str | None = None
        self.env = host.env
        self.background_runs: set[asyncio.Task[Execution]] = set()
        self._past_envs: deque[SessionEnvironment | None] = deque(maxlen=MAX_PAST_ENVIRONMENTS)
        self.on_fork: Callable[[bool], object] = bool
        self._is_stale = is_stale
        self._use_count = 0
        self._uploads: dict[str, UploadSource | SecretUrl | None] = {}
        self._digests: dict[str, str | None] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a run or a transfer is in progress, or waits for its turn."""
        return self._use_count > 0

    def set_env(self, env: SessionEnvironment) -> None:
        """Replace the variables of this session, from its next run on.

        Secrets of earlier variables stay hidden, because the code may have copied them.
        """
        self._past_envs.append(self.env)
        self.env = env if self.host.env is None else self.host.env.merge(env)

    def get_env(self, pool: SessionPool) -> SessionEnvironment | None:
        """Return the variables that a run brings, or None.

        Raises:
            ConfigurationError: There are some, and the pool cannot set them.
        """
        if self.env is not None and self.env.values:
            check_env_support(pool.capabilities)
        return self.env if pool.capabilities.env else None

    def reset_after_fork(self, session_id: str, *, is_lost: bool) -> None:
        """Begin with another session, in a forked child.

        Args:
            session_id: Its identifier.
            is_lost: Whether it lacks what the parent's session has.
        """
        self.on_fork(is_lost)
        self._is_stale = self._is_stale and session_id == self.id
        self.id, self.was_used, self._use_count = session_id, False, 0
        self.background_runs = set()

    async def cancel_runs(self) -> None:
        """End the runs in the background, since code that runs may delay the end of its session."""
        for task in self.background_runs:
            task.cancel()
        if self.background_runs:
            await asyncio.wait(self.background_runs)

    @contextmanager
    def in_use(self) -> Generator[None]:
        """Mark the session as busy."""
        self.was_used = True
        self.host.note_use(self.id)
        self._use_count += 1
        try:
            yield
        finally:
            self._use_count -= 1

    async def begin(self) -> None:
        """End the earlier session of this key in the pool, before the first call of any kind.

        The model is about to read that its variables and files are gone. What is uploaded from
        now on stays.
        """
        await self.host.get_pool()
        if self._is_stale:
            await self.host.end_session(self.id, is_needed=lambda: self._is_stale)
            self._is_stale = False

    async def upload(
        self, name: str, source: UploadSource, on_progress: ProgressHandler
    ) -> FileInfo:
        """Write a file into the session and remember it."""
        try:
            async with self._before_runs():
                info = await self.send(name, source, on_progress)
        except BaseException:
            source.close()
            raise
        self.remember(name, source, info)
        return info

    async def fetch(self, url: SecretUrl, name: str, on_progress: ProgressHandler) -> FileInfo:
        """Have the session fetch a URL, and remember it."""
        async with self._before_runs():
            info = await self._fetch_url(url, name, on_progress)
        self.remember(name, url, info)
        return info

    @asynccontextmanager
    async def _before_runs(self) -> AsyncGenerator[None]:
        """Note the instance that gets a file, unless a run is about to state its own."""
        is_busy = self.is_busy
        with self.in_use():
            await self.begin()
            if not is_busy:
                await self.note_instance()
            yield

    async def note_instance(self) -> None:
        """Find out the session's instance, so that the next run notices the loss of its files.

        Raises:
            PoolUnavailableError: The pool cannot be reached, or has no place for the session.
        """
        if self.instance is not None:
            return
        pool = await self.host.get_pool()
        try:
            found = await pool.get_instance(self.id)
        except PoolUnavailableError:
            raise
        except CodeInterpreterError as error:
            logger.info("the session's instance is not known: %s", describe_error(error))
            return
        self._take_instance(found)

    def _take_instance(self, found: str | None) -> None:
        if self.instance is None:  # a run may have stated it meanwhile
            self.instance = found

    async def restore_uploads(self) -> tuple[Sequence[str], Sequence[str]]:
        """Send every remembered file to the session again.

        Returns:
            The names of restored files, and of files that could not be restored.
        """
        names = sorted(self._uploads)
        missing = [name for name in names if not await self._restore(name)]
        for name in missing:
            self.forget_upload(name)
        return [name for name in names if name not in missing], missing

    def has_upload(self, name: str) -> bool:
        """Return whether a file is remembered."""
        return name in self._uploads

    def get_digest(self, name: str) -> str | None:
        """Return the hash of a remembered file, or None."""
        return self._digests.get(name)

    def forget_upload(self, name: str) -> None:
        """Forget a file, and release what was kept to restore it."""
        source = self._uploads.pop(name, None)
        self._digests.pop(name, None)
        if isinstance(source, UploadSource):
            source.close()

    def forget_uploads(self) -> None:
        """Forget every file."""
        for name in list(self._uploads):
            self.forget_upload(name)

    def remember(self, name: str, source: UploadSource | SecretUrl, info: FileInfo) -> None:
        """Keep the source of a file, to restore it."""
        self.forget_upload(name)
        kept_bytes = sum(
            old.memory_bytes for old in self._uploads.values() if isinstance(old, UploadSource)
        )
        fits = (
            not isinstance(source, UploadSource)
            or kept_bytes + source.memory_bytes <= MAX_KEPT_UPLOAD_BYTES
        )
        self._uploads[name] = source if fits else None
        self._digests[name] = info.sha256

    async def _restore(self, name: str) -> bool:
        source, digest = self._uploads[name], self._digests.get(name)
        try:
            if isinstance(source, SecretUrl):
                info = await self._fetch_url(source, name, ignore_progress)
            elif source is None or not await anyio.to_thread.run_sync(source.is_unchanged):
                return False
            else:
                info = await self.send(name, source, ignore_progress)
            if digest is not None and info.sha256 not in {digest, None}:
                await (await self.host.get_pool()).delete_file(self.id, name)
                return False
        except FileTransferError:
            return False
        return True

    async def send(self, name: str, source: UploadSource, on_progress: ProgressHandler) -> FileInfo:
        """Write a file into the session without remembering it."""
        with self.in_use():
            await self.begin()
            file_transfer = await self.host.get_file_transfer()
            info = await file_transfer.upload(self.id, name, source, on_progress)
            return count_transfer(info, "in")

    async def _fetch_url(self, url: SecretUrl, name: str, on_progress: ProgressHandler) -> FileInfo:
        file_transfer = await self.host.get_file_transfer()
        with make_temporary_folder() as folder, self.in_use():
            await self.begin()
            info = await file_transfer.fetch(self.id, url, name, Path(folder), on_progress)
            return count_transfer(info, "in")


def ignore_progress(_: int) -> None:
    """Ignore the count of transferred bytes."""


def count_transfer(info: FileInfo, direction: str) -> FileInfo:
    """Count the bytes of a file that arrived, and return its description."""
    count_file(info.route or "unknown", direction, info.size)
    return info
