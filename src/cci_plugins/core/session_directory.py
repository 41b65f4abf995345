"""The live sessions of a host by conversation key.

The directory is bounded. A new session evicts those that were idle for `Limits.idle_session`, and
the least recently used ones beyond `Limits.live_sessions`. A busy session and the newest one are
never evicted. The caller deletes evicted sessions in the pool, because only it knows its loop.

Identifiers are derived from the key and a secret, so nobody can guess one from the other. With a
secret that the application shares between processes, each of them reaches the same sessions. The
directory then leaves the sessions of a remote pool alone when it closes.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from threading import Lock

import anyio

from cci_plugins.common import event_loop
from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.common.log import describe_error, logger
from cci_plugins.errors import CodeInterpreterError

from .session import Session
from .session_handle import SessionHandle
from .session_host import SessionHost

CLOSE_SECONDS = 10
_MAX_EVICTED_KEYS = 10_000


def derive_identifier(secret: bytes, key: str) -> str:
    """Derive a session identifier. Neither it nor the key can be guessed from the other.

    Returns:
        68 characters of `[a-z0-9-]`. Azure allows 4 to 128 safe characters
        (learn.microsoft.com, Container Apps sessions usage).
    """
    return "cci-" + hmac.new(secret, key.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


@dataclass(slots=True)
class _Entry:
    session: Session
    handle: SessionHandle
    last_used: float = 0.0  # of the monotonic clock, in seconds


class SessionDirectory:
    """A bounded table of sessions. Any thread may call every method that is not a coroutine.

    Args:
        host: The pool that the sessions live in. The directory closes it.
        secret: Makes identifiers the same in every process that has it. Random if None.
    """

    def __init__(self, host: SessionHost, *, secret: bytes | None = None) -> None:
        self._host = host
        self._secret = secret or secrets.token_bytes(32)
        self._has_shared_secret = secret is not None
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._evicted_keys: OrderedDict[str, SessionEnvironment | None] = OrderedDict()
        self._guard = Lock()
        host.close_at_exit = self.aclose
        if self._has_shared_secret:
            host.keep_sessions()
        if host.owns_pool:
            event_loop.add_fork_hook(self)

    def get_or_create(
        self, key: str, env: SessionEnvironment | None = None
    ) -> tuple[Session, list[SessionHandle]]:
        """Return the session of a conversation, and the sessions evicted to make room for it.

        Args:
            key: The conversation.
            env: Variables for its code from the next run on. None leaves them as they are.
        """
        with self._guard:
            entry = self._entries.get(key) or self._create_entry(key)
            if env is not None:
                entry.handle.set_env(env)
            entry.last_used = time.monotonic()
            self._entries[key] = entry
            self._entries.move_to_end(key)
            return entry.session, list(self._evict_surplus())

    def reset_after_fork(self) -> None:
        """Start again with a new pool, in a forked child. Uploads are restored from the parent's.

        With a random secret the child has sessions of its own, which end with it and not before.
        """
        self._guard = Lock()
        survive = self._has_shared_secret and self._host.pool.capabilities.outlives_app
        if not self._has_shared_secret:
            self._secret = secrets.token_bytes(32)
        self._host.reset_after_fork()
        for key, entry in self._entries.items():
            identifier = derive_identifier(self._secret, key)
            entry.handle.reset_after_fork(identifier, is_lost=not survive)

    def remove(self, key: str) -> SessionHandle | None:
        """Forget a conversation. Return its session, if it has one."""
        with self._guard:
            entry = self._entries.pop(key, None)
            return None if entry is None else entry.handle

    def was_used(self, key: str) -> bool:
        """Return whether a conversation's session may exist in the pool."""
        entry = self._entries.get(key)
        return entry is not None and entry.handle.was_used

    async def delete(self, handle: SessionHandle) -> None:
        """End an evicted or removed session in its pool. A failure is logged."""
        handle.forget_uploads()
        await handle.cancel_runs()
        try:  # a conversation that is back ends the old session itself, before its first call
            await self._host.end_session(
                handle.id, is_needed=lambda: handle.key not in self._entries
            )
        except CodeInterpreterError as error:
            logger.warning("could not end a session: %s", describe_error(error))

    async def aclose(self) -> None:
        """Forget every session, end those that would outlive the program, and close the host.

        It goes on if the caller is cancelled: nothing would end the sessions later.
        """
        await run_to_end(self._close())

    async def _close(self) -> None:
        self._host.refuse_calls()
        with self._guard:
            handles = [entry.handle for entry in self._entries.values()]
            self._entries.clear()
        for handle in handles:
            handle.forget_uploads()
        if self._host.pool.capabilities.outlives_app and not self._has_shared_secret:
            await self._delete_all([handle for handle in handles if handle.was_used])
        await self._host.aclose()

    async def _delete_all(self, handles: list[SessionHandle]) -> None:
        """End sessions of a remote pool. Each would occupy its place until the cooldown."""
        with anyio.move_on_after(CLOSE_SECONDS):
            async with anyio.create_task_group() as tasks:
                for handle in handles:
                    tasks.start_soon(self.delete, handle)

    def _create_entry(self, key: str) -> _Entry:
        was_evicted = key in self._evicted_keys
        env = self._evicted_keys.pop(key, None)
        identifier = derive_identifier(self._secret, key)
        handle = SessionHandle(self._host, key, identifier, is_stale=was_evicted)
        handle.env = env or handle.env
        on_delete = partial(self.remove, key)
        return _Entry(Session(handle, on_delete=on_delete, was_evicted=was_evicted), handle)

    def _evict_surplus(self) -> Iterator[SessionHandle]:
        idle_since = time.monotonic() - self._host.limits.idle_session.total_seconds()
        for key in list(self._entries)[:-1]:
            entry = self._entries[key]
            if entry.handle.is_busy:
                continue
            is_surplus = len(self._entries) > self._host.limits.live_sessions
            if entry.last_used >= idle_since and not is_surplus:
                break
            del self._entries[key]
            self._evicted_keys[key] = entry.handle.env
            if len(self._evicted_keys) > _MAX_EVICTED_KEYS:
                self._evicted_keys.popitem(last=False)
            yield entry.handle
