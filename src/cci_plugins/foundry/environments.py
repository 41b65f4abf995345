"""Environments of the pool, so that an application can exchange files with an agent's code.

Foundry and its models only transport text, and pools cut it. But the environment of an agent's
code is a session of the pool, and the application can use that session with the same key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from cci_plugins.azure.gateway import find_gateway
from cci_plugins.azure.options import Azure
from cci_plugins.common.settings import Settings
from cci_plugins.core.interpreter import CodeInterpreter, get_session_host
from cci_plugins.core.session_files import SessionFiles
from cci_plugins.core.session_handle import SessionHandle
from cci_plugins.core.session_host import SessionHost
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.azure.rest_pool import CustomSessionPool

# The gateway's host of each custom pool's host.
_GATEWAYS: WeakKeyDictionary[SessionHost, SessionHost] = WeakKeyDictionary()


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
        interpreter: An interpreter on the pool of the agent's connection. For a custom pool, the
            gateway is found, and its key is read from Azure where none is set.
        environment_id: `Reply.environment_id`. A new environment is launched when None.

    Returns:
        The environment. Pass it to `run`.

    Raises:
        ConfigurationError: The interpreter uses another kind of pool, or a custom pool without a
            gateway.
        PoolError: The pool did not launch an environment.
    """
    host = get_session_host(interpreter)
    host, session_id = await host.dispatch(_open, host, environment_id)
    return Environment(session_id, SessionFiles(SessionHandle(host, session_id, session_id)), host)


async def _open(host: SessionHost, environment_id: str | None) -> tuple[SessionHost, str]:
    """Return the environment's id, and a host of the pool that knows it by this id."""
    pool = await host.get_pool()
    if isinstance(pool, CustomSessionPool):
        host = await _open_gateway(host, pool)
        pool = await host.get_pool()
    if not isinstance(pool, PlatformSessionPool):
        raise ConfigurationError(
            "an agent's environment needs a pool with an MCP endpoint",
            hint="set AZURE_SESSION_POOL_MCP_ENDPOINT and AZURE_SESSION_POOL_MCP_KEY",
        )
    if environment_id is None:
        return host, await pool.launch()
    pool.adopt(environment_id)
    return host, environment_id


async def _open_gateway(host: SessionHost, pool: CustomSessionPool) -> SessionHost:
    """Return a host of the gateway in front of a custom pool. Agents use its environment ids."""
    found = _GATEWAYS.get(host)
    if found is not None:
        return found
    settings = Settings.read(check=False)
    settings.check_sign_ins("sessions")
    endpoint, key = settings.mcp_endpoint, settings.gateway_key
    if endpoint is None or key is None:
        if settings.resource_id is None:
            raise ConfigurationError(
                "an agent's environment in a custom pool needs the pool's gateway, which is not "
                "named",
                hint="set AZURE_SESSION_POOL_RESOURCE_ID, as cci provision show prints it",
            )
        azure = Azure(credential=pool.sign_in, endpoint=settings.arm_endpoint)
        gateway = await find_gateway(settings.resource_id, azure, endpoint=endpoint)
        endpoint, key = gateway.endpoint, key or gateway.key
    companion = host.create_companion(PlatformSessionPool(endpoint, key=key, limits=host.limits))
    _GATEWAYS[host] = companion
    return companion
