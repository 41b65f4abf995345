"""The session of each MCP session: which client sends a request, and where its code runs."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from contextvars import ContextVar

from cci_plugins.common.limits import Limits
from cci_plugins.core.session import Session
from cci_plugins.core.session_directory import SessionDirectory
from cci_plugins.core.session_host import SessionHost
from cci_plugins.files.file_transfer import FileOptions
from cci_plugins.pools.base import SessionPool

from .environments import EnvironmentIdError, SignedEnvironments

_SECRET_BYTES = 32
_MAX_ENDED_IDS = 10_000

mcp_session_id: ContextVar[str | None] = ContextVar("cci_mcp_session", default=None)
"""The MCP session that a request belongs to. None if its client keeps none."""


class McpSessions:
    """Creates the ids of MCP sessions, and gives each of them a session of the pool.

    Only ids that this object created are accepted. They cannot be guessed, so a client cannot
    reach the session of another. Everything runs on the pool's event loop.

    Args:
        pool: Where code runs. The caller starts and closes it.
        limits: How many sessions are kept, and for how long.
        files: Where larger files are staged.

    Attributes:
        host: The pool, with its limits and its file transfer.
    """

    def __init__(
        self, pool: SessionPool, limits: Limits, *, files: FileOptions | None = None
    ) -> None:
        self.host = SessionHost(pool, limits=limits, files=files, owns_pool=False)
        self._ids = SignedEnvironments(secrets.token_bytes(_SECRET_BYTES))
        self._directory = SessionDirectory(self.host)
        self._ended_ids: OrderedDict[str, None] = OrderedDict()

    def create_id(self) -> str:
        """Create the id of a new MCP session. No session of the pool is started."""
        return self._ids.mint()

    def is_active(self, mcp_session: str) -> bool:
        """Return whether an id was created here, and its session has not ended."""
        try:
            self._ids.resolve_session_id(mcp_session)
        except EnvironmentIdError:
            return False
        return mcp_session not in self._ended_ids

    def was_used(self, session: Session) -> bool:
        """Return whether a session may exist in the pool."""
        return self._directory.was_used(session.key)

    async def get_current_session(self) -> Session | None:
        """Return the session of the request's client, or None if it keeps no MCP session."""
        mcp_session = mcp_session_id.get()
        if mcp_session is None:
            return None
        session, evicted = self._directory.get_or_create(mcp_session)
        for handle in evicted:
            if handle.was_used:
                await self._directory.delete(handle)
        return session

    async def end(self, mcp_session: str) -> None:
        """End an MCP session, and the code that runs in it."""
        self._ended_ids[mcp_session] = None
        if len(self._ended_ids) > _MAX_ENDED_IDS:
            self._ended_ids.popitem(last=False)
        handle = self._directory.remove(mcp_session)
        if handle is not None and handle.was_used:
            await self._directory.delete(handle)

    async def aclose(self) -> None:
        """End the sessions that would outlive the pool object."""
        await self._directory.aclose()
