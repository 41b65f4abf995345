"""An environment of the pool, as seen by the application: files go in and out beside the agent.

Foundry and its models only carry text, and pools cut it; but the environment in which an agent
runs its code is a session of the pool, which the application can reach with the same key.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cci_plugins.core.interpreter import CodeInterpreter, get_session_host
from cci_plugins.core.session_files import SessionFiles
from cci_plugins.core.session_handle import SessionHandle
from cci_plugins.core.session_host import SessionHost
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool


@dataclass(frozen=True, slots=True)
class Environment:
    """Where an agent runs its code.

    Attributes:
        id: The environmentId, which a model has to pass.
        files: What is in its `/mnt/data`: `upload`, `download`, `list`, `remove`.
    """

    id: str
    files: SessionFiles = field(repr=False)
    _host: SessionHost = field(repr=False)

    async def delete(self) -> None:
        """End it now, where the pool can, and free its place."""
        await self._host.dispatch(self._delete)

    async def _delete(self) -> None:
        await (await self._host.get_pool()).delete_session(self.id)


async def open_environment(
    interpreter: CodeInterpreter, environment_id: str | None = None
) -> Environment:
    """An environment to give to an agent, or the one that it used.

    Args:
        interpreter: Over the pool that the agent's connection leads to.
        environment_id: `Reply.environment_id`; a new environment is launched when None.

    Raises:
        ConfigurationError: The interpreter is over another kind of pool.
        PoolError: The pool gave none.
    """
    host = get_session_host(interpreter)
    session_id = await host.dispatch(_resolve_id, host, environment_id)
    return Environment(session_id, SessionFiles(SessionHandle(host, session_id, session_id)), host)


async def _resolve_id(host: SessionHost, environment_id: str | None) -> str:
    pool = await host.get_pool()
    if not isinstance(pool, PlatformSessionPool):
        raise ConfigurationError(
            "an agent's environment is reached by the pool's MCP endpoint",
            hint="set AZURE_SESSION_POOL_MCP_ENDPOINT and AZURE_SESSION_POOL_MCP_KEY",
        )
    if environment_id is None:
        return await pool.launch()
    pool.adopt(environment_id)
    return environment_id
