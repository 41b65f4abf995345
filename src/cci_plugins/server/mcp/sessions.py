"""The session of each MCP session: which client sends a request, and where its code runs.

Clients of MCP 2026-07-28 have no MCP session. Their requests name an environment, or start one.
`is_stateless` is set while such a request is answered, and `mcp_session_id` is not.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterable
from contextvars import ContextVar

from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.common.limits import Limits
from cci_plugins.core.session import Session
from cci_plugins.core.session_directory import SessionDirectory
from cci_plugins.core.session_handle import SessionHandle
from cci_plugins.core.session_host import SessionHost
from cci_plugins.files.file_transfer import FileOptions
from cci_plugins.pools.base import SessionPool

from .environments import EnvironmentIdError, Environments, OpenEnvironments, SignedEnvironments

_SECRET_BYTES = 32
_MAX_ENDED_IDS = 10_000
_MAX_ENVIRONMENTS = 1_000

mcp_session_id: ContextVar[str | None] = ContextVar("cci_mcp_session", default=None)
"""The MCP session that a request belongs to. None if its client keeps none."""
is_stateless: ContextVar[bool] = ContextVar("cci_stateless", default=False)
"""Whether a request is of the stateless revision of MCP, so that it names its environment."""


class McpSessions:
    """Creates the ids of MCP sessions, and gives each of them a session of the pool.

    Only ids that this object created are accepted. They cannot be guessed, so a client cannot
    reach the session of another. Everything runs on the pool's event loop.

    Args:
        pool: Where code runs. The caller starts and closes it.
        limits: How many sessions are kept, and for how long.
        files: Where larger files are staged.
        environments: Issues and checks environment ids. None accepts any id.
        env: Variables for the code in every session, or None.

    Attributes:
        host: The pool, with its limits and its file transfer.
    """

    def __init__(
        self,
        pool: SessionPool,
        limits: Limits,
        *,
        files: FileOptions | None = None,
        environments: Environments | None = None,
        env: SessionEnvironment | None = None,
    ) -> None:
        self.host = SessionHost(pool, limits=limits, files=files, owns_pool=False, env=env)
        self._ids = SignedEnvironments(secrets.token_bytes(_SECRET_BYTES))
        self._directory = SessionDirectory(self.host)
        self._ended_ids: OrderedDict[str, None] = OrderedDict()
        self._environment_ids = OpenEnvironments() if environments is None else environments
        self._environments: OrderedDict[str, tuple[Session, SessionHandle]] = OrderedDict()

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
        if (kept := self._environments.get(session.key)) is not None:
            return kept[1].was_used
        return self._directory.was_used(session.key)

    def launch_environment(self) -> str:
        """Issue the id of a new environment. No session of the pool is started."""
        return self._environment_ids.mint()

    def get_environment(self, environment_id: object) -> Session:
        """Return the session of an environment. The pool ends it after its cooldown.

        Args:
            environment_id: The id that the client sent.

        Raises:
            EnvironmentIdError: The id is not accepted.
        """
        session_id = self._environment_ids.resolve_session_id(environment_id)
        key = f"environment {session_id}"
        if key not in self._environments:
            handle = SessionHandle(self.host, key, session_id)
            self._environments[key] = Session(handle, on_delete=bool), handle
        self._environments.move_to_end(key)
        self._forget_environments()
        return self._environments[key][0]

    def _forget_environments(self) -> None:
        """Forget what is kept of the environments that were not used for the longest time."""
        surplus = len(self._environments) - _MAX_ENVIRONMENTS
        if surplus > 0:
            for key in [*self._environments][:surplus]:
                if not self._environments[key][1].is_busy:
                    del self._environments[key]

    async def get_current_session(self) -> Session | None:
        """Return the session of the request's client, or None if it keeps no MCP session."""
        mcp_session = mcp_session_id.get()
        if mcp_session is None:
            return None
        session, evicted = self._directory.get_or_create(mcp_session)
        if evicted:
            await run_to_end(self._delete(evicted))
        return session

    async def end(self, mcp_session: str) -> None:
        """End an MCP session, and the code that runs in it, also if the caller is cancelled."""
        self._ended_ids[mcp_session] = None
        if len(self._ended_ids) > _MAX_ENDED_IDS:
            self._ended_ids.popitem(last=False)
        handle = self._directory.remove(mcp_session)
        if handle is not None:
            await run_to_end(self._delete([handle]))

    async def _delete(self, handles: Iterable[SessionHandle]) -> None:
        """End sessions that the directory has forgotten, so that nobody else would."""
        for handle in handles:
            if handle.was_used:
                await self._directory.delete(handle)

    async def aclose(self) -> None:
        """End the sessions that would outlive the pool object."""
        await self._directory.aclose()
