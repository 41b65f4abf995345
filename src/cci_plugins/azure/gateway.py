"""The gateway in front of a custom pool: its MCP endpoint and its key, from Resource Manager.

A custom pool has no MCP server of its own. `cci provision up --gateway` puts one in front of it, as
a container app of the same resource group, whose key is a secret of that app.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cci_plugins.common.settings import get_variable_name
from cci_plugins.errors import AuthenticationError, ConfigurationError
from cci_plugins.redaction import know

from . import api_versions
from .failures import FORBIDDEN, ArmError
from .options import Azure
from .resource import lowercase_keys

_STEP = "gateway"
_DEFAULT_SECRET = "serve-key"  # noqa: S105 - the name of a secret
_HINT = (
    "create one: cci provision up --kind custom --gateway; or start cci serve --pool custom and "
    "connect to that: cci foundry connect --endpoint URL"
)


class Gateway(NamedTuple):
    """The MCP endpoint of a gateway, and its key."""

    endpoint: str
    key: str


async def find_gateway(pool_id: str, azure: Azure, *, endpoint: str | None = None) -> Gateway:
    """Return the gateway of a custom pool.

    Args:
        pool_id: Resource id of the pool.
        azure: Address and sign-in of Resource Manager.
        endpoint: MCP endpoint of the gateway, if it is known.

    Raises:
        ConfigurationError: The pool has no gateway, or not this one.
        AuthenticationError: The sign-in failed, or a role is missing.
        ProvisioningError: Azure refused the request, or cannot be reached.
    """
    from .resource_manager import ArmClient  # noqa: PLC0415 - heavy, and an extra

    group = pool_id.lower().partition("/providers/")[0]
    group = pool_id[: len(group)]
    async with ArmClient(azure) as arm:
        try:
            apps = await arm.list(
                f"{group}/providers/Microsoft.App/containerApps", api_versions.APP, step=_STEP
            )
            pool = await arm.get(pool_id, api_versions.MANAGED_POOL, step="session pool")
            app = _choose(apps, pool or {}, endpoint)
            found = await arm.post(f"{app['id']}/listSecrets", api_versions.APP, step=_STEP)
        except ArmError as error:
            if error.status != FORBIDDEN:
                raise
            raise AuthenticationError(
                f"the gateway's key cannot be read: {error}",
                hint="assign the role Contributor on the gateway, or set "
                f"{get_variable_name('mcp_key')}",
            ) from None
    key = _find_secret(found, _find_secret_name(app))
    know(key)
    return Gateway(endpoint or _get_url(app), key)


def _choose(
    apps: list[Mapping[str, Any]], pool: Mapping[str, Any], endpoint: str | None
) -> Mapping[str, Any]:
    """Return the app behind an endpoint, or else the one that names the pool as its own."""
    if endpoint is not None:
        host = urlsplit(endpoint).hostname
        for app in apps:
            if urlsplit(_get_url(app)).hostname == host:
                return app
        raise ConfigurationError(
            f"no container app of the pool's resource group has the address {host}",
            hint=f"set {get_variable_name('mcp_key')} to the endpoint's key",
        )
    address = str(lowercase_keys(pool.get("properties")).get("poolmanagementendpoint") or "")
    variable = get_variable_name("endpoint")
    for app in apps:
        if address and _list_variables(app).get(variable, {}).get("value") == address:
            return app
    raise ConfigurationError(
        "this pool runs a custom container, which has no MCP server, and has no gateway", hint=_HINT
    )


def _get_url(app: Mapping[str, Any]) -> str:
    configuration = lowercase_keys(lowercase_keys(app.get("properties")).get("configuration"))
    host = lowercase_keys(configuration.get("ingress")).get("fqdn")
    return f"https://{host}/mcp" if host else ""


def _list_variables(app: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    template = lowercase_keys(lowercase_keys(app.get("properties")).get("template"))
    containers = template.get("containers")
    first = containers[0] if isinstance(containers, list) and containers else {}
    variables = lowercase_keys(first).get("env")
    items = [lowercase_keys(item) for item in variables] if isinstance(variables, list) else []
    return {str(item.get("name")): item for item in items}


def _find_secret_name(app: Mapping[str, Any]) -> str:
    variable = _list_variables(app).get(get_variable_name("serve_key"), {})
    return str(variable.get("secretref") or _DEFAULT_SECRET)


def _find_secret(found: Mapping[str, Any], name: str) -> str:
    for item in found.get("value") or []:
        secret = lowercase_keys(item)
        if secret.get("name") == name and secret.get("value"):
            return str(secret["value"])
    raise ConfigurationError(
        f"the gateway has no secret {name!r}", hint="run cci provision rotate-key"
    )
