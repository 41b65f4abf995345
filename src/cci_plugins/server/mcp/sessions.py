"""The session of each MCP session: who speaks, and where that client's code runs."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from contextvars import ContextVar
from functools import partial

from cci_plugins.common.limits import Limits
from cci_plugins.common.log import logger
from cci_plugins.core.session import Session
from cci_plugins.core.session_directory import SessionDirectory
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.files.file_transfer import FileOptions, FileTransfer
from cci_plugins.pools.base import Capabilities, SessionPool

from .environments import EnvironmentIdError, SignedEnvironments

_SECRET_BYTES = 32
_MAX_ENDED_IDS = 10_000

mcp_session_id: ContextVar[str | None] = ContextVar("cci_mcp_session", default=None)
"""The MCP session that a request belongs to; None when its client keeps none."""


class McpSessions:
    """Gives MCP sessions their ids, and each of them a session of the pool.

    Only ids of this object are taken: they cannot be guessed, and a client cannot choose whose
    session it gets. Everything is on the pool's event loop.

    Args:
        pool: Where code runs; the caller's.
        limits: How many sessions are kept, and for how long.
        files: Where larger files are staged.
    """

    def __init__(
        self, pool: SessionPool, limits: Limits, *, files: FileOptions | None = None
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._file_transfer = FileTransfer(pool, limits=limits, options=files or FileOptions())
        self._ids = SignedEnvironments(secrets.token_bytes(_SECRET_BYTES))
        self._directory: SessionDirectory[Session] = SessionDirectory(limits)
        self._ended_ids: OrderedDict[str, None] = OrderedDict()

    @property
    def limits(self) -> Limits:
        """Bounds of runs and files."""
        return self._limits

    @property
    def known_packages(self) -> tuple[str, ...]:
        """Packages that code can import, as far as the pool knows."""
        return self._pool.known_packages

    @property
    def capabilities(self) -> Capabilities:
        """Abilities of the pool."""
        return self._pool.capabilities

    async def _get_pool(self) -> SessionPool:
        """The started pool."""
        return self._pool

    async def _get_file_transfer(self) -> FileTransfer:
        """What moves files out of sessions."""
        return self._file_transfer

    def create_id(self) -> str:
        """The id of a new MCP session; touches no session of the pool."""
        return self._ids.mint()

    def is_active(self, mcp_session: str) -> bool:
        """Whether an id was given here, and its session has not ended."""
        try:
            self._ids.resolve_session_id(mcp_session)
        except EnvironmentIdError:
            return False
        return mcp_session not in self._ended_ids

    async def get_current_session(self) -> Session | None:
        """The session of the request's client; None when it keeps no MCP session."""
        mcp_session = mcp_session_id.get()
        if mcp_session is None:
            return None
        session, evicted = self._directory.get_or_create(
            mcp_session, partial(self._make, mcp_session)
        )
        for old in evicted:
            await self._delete(old)
        return session

    async def end(self, mcp_session: str) -> None:
        """End an MCP session, and what runs in it."""
        self._ended_ids[mcp_session] = None
        if len(self._ended_ids) > _MAX_ENDED_IDS:
            self._ended_ids.popitem(last=False)
        if mcp_session in self._directory:
            session, evicted = self._directory.get_or_create(
                mcp_session, partial(self._make, mcp_session)
            )
            self._directory.remove(mcp_session)
            for old in (session, *evicted):
                await self._delete(old)

    async def aclose(self) -> None:
        """End the sessions that would outlive the pool object."""
        sessions = self._directory.clear()
        if self._pool.capabilities.outlives_app:
            for session in sessions:
                await self._delete(session)
        await self._file_transfer.aclose()

    def _make(self, mcp_session: str, was_evicted: bool) -> Session:  # noqa: FBT001 - the directory asks
        on_delete = partial(self._directory.remove, mcp_session)
        identifier = self._directory.derive_id(mcp_session)
        return Session(self, mcp_session, identifier, on_delete, was_evicted=was_evicted)

    async def _delete(self, session: Session) -> None:
        if not session._was_used or session.key in self._directory:
            return
        try:
            await self._pool.delete_session(session.id)
        except CodeInterpreterError as error:
            logger.warning("could not end a session: %s", error)
