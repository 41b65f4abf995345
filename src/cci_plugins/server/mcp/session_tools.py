"""Tools about a whole session, for the cci-plugins client. No list of tools has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cci_plugins.mcp_client import executions
from cci_plugins.pools.base import SessionPool, build_no_packages_error, check_packages_support
from cci_plugins.pools.package_pools import PackageExchange

from .answers import ToolCallResult, build_json_result
from .environments import Environments

SessionTool = Callable[[Mapping[str, Any], object], Awaitable[ToolCallResult]]


class SessionTools:
    """Interrupt, restart, packages and instances of the sessions of a pool.

    Args:
        pool: Where code runs.
        environments: Checks environment ids.
        admit_run: Called with the session before packages are asked for. It raises to refuse them.
    """

    def __init__(
        self,
        pool: SessionPool,
        environments: Environments,
        admit_run: Callable[[str], Awaitable[None]] | None,
    ) -> None:
        self._pool = pool
        self._environments = environments
        self._admit_run = admit_run
        self.tools: dict[str, SessionTool] = {
            executions.INTERRUPT: self._interrupt,
            executions.RESTART: self._restart,
            executions.PACKAGES: self._exchange_packages,
            executions.INSTANCE: self._get_instance,
        }

    async def _interrupt(self, arguments: Mapping[str, Any], _: object) -> ToolCallResult:
        return build_json_result({"done": await self._pool.interrupt(self._resolve(arguments))})

    async def _restart(self, arguments: Mapping[str, Any], _: object) -> ToolCallResult:
        done = await self._pool.restart_session(self._resolve(arguments))
        return build_json_result({"done": done})

    async def _exchange_packages(self, arguments: Mapping[str, Any], _: object) -> ToolCallResult:
        session_id = self._resolve(arguments)
        if not isinstance(self._pool, PackageExchange):
            raise build_no_packages_error(self._pool.capabilities.name)
        check_packages_support(self._pool.capabilities)
        message = {name: value for name, value in arguments.items() if name != "environmentId"}
        if not message and self._admit_run is not None:  # the others belong to its upload
            await self._admit_run(session_id)
        return build_json_result(dict(await self._pool.exchange_packages(session_id, message)))

    async def _get_instance(self, arguments: Mapping[str, Any], _: object) -> ToolCallResult:
        instance = await self._pool.get_instance(self._resolve(arguments))
        return build_json_result({"instance": instance})

    def _resolve(self, arguments: Mapping[str, Any]) -> str:
        return self._environments.resolve_session_id(arguments.get("environmentId"))
