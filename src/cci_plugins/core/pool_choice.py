"""The pool that settings choose. This module loads quickly, so that the pool can start early."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cci_plugins.common.settings import Settings

if TYPE_CHECKING:
    from cci_plugins.azure.credentials import TokenCredential
    from cci_plugins.pools.base import SessionPool


def build_pool(
    settings: Settings, *, credential: TokenCredential | str | None = None
) -> SessionPool:
    """Build the pool that settings choose. It is not started.

    Args:
        settings: Names the pool and its options.
        credential: Signs in to Azure if the settings have no token. None means
            `DefaultAzureCredential`.
    """
    settings.check_sign_ins("sessions")
    given = settings.access_token
    token = credential if given is None else given.get_secret_value()
    if settings.chosen_pool == "platform":
        from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool

        return PlatformSessionPool(
            settings.mcp_endpoint,
            key=settings.mcp_key,
            resource_id=settings.resource_id,
            credential=token,
            arm_endpoint=settings.arm_endpoint,
            limits=settings.limits(),
        )
    if settings.chosen_pool == "custom" and settings.endpoint is not None:
        from cci_plugins.pools.azure.rest_pool import CustomSessionPool

        return CustomSessionPool(settings.endpoint, credential=token, limits=settings.limits())
    return _build_local_pool(settings)


def _build_local_pool(settings: Settings) -> SessionPool:
    from cci_plugins.pools.local.container import compute_limits, compute_total_memory
    from cci_plugins.pools.local.pool import LocalSessionPool

    total = settings.container_memory and compute_total_memory(
        settings.container_memory, settings.ready_sessions
    )
    preload = settings.preload.replace(",", " ").split()
    return LocalSessionPool(
        isolation=settings.isolation,
        python=settings.python,
        max_sessions=settings.sessions,
        ready_sessions=settings.ready_sessions,
        cooldown=timedelta(seconds=settings.cooldown),
        egress=settings.egress_rules,
        limits=compute_limits(total or None, settings.container_cpu),
        environment=settings.session_environment,
        total_memory_bytes=total or None,
        packages=settings.packages.split(),
        preload=() if preload == ["none"] else tuple(preload),
    )
