"""Environments of the pool, so that an application can exchange files with an agent's code.

Foundry and its models only transport text, and pools cut it. But the environment of an agent's
code is a session of the pool, and the application can use that session with the same key.
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
    """The environment in which an agent runs its code.

    Attributes:
        id: The environmentId, which a model has to pass.
        files: Its files in `/mnt/data`: `upload`, `download`, `list`, `remove`.
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
    """Open a new environment for an agent, or the one that it used.

    Args:
        interpreter: An interpreter on the pool of the agent's connection.
        environment_id: `Reply.environment_id`. A new environment is launched when None.

    Returns:
        The environment. Pass it to `run`.

    Raises:
        ConfigurationError: The interpreter uses another kind of pool.
        PoolError: The pool did not launch an environment.
    """
    host = get_session_host(interpreter)
    session_id = await host.dispatch(_resolve_id, host, environment_id)
    return Environment(session_id, SessionFiles(SessionHandle(host, session_id, session_id)), host)


async def _resolve_id(host: SessionHost, environment_id: str | None) -> str:
    pool = await host.get_pool()
    if not isinstance(pool, PlatformSessionPool):
        raise ConfigurationError(
            "an agent's environment needs a pool with an MCP endpoint",
            hint="set AZURE_SESSION_POOL_MCP_ENDPOINT and AZURE_SESSION_POOL_MCP_KEY",
        )
    if environment_id is None:
        return await pool.launch()
    pool.adopt(environment_id)
    return environment_id
