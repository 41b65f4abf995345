"""Checks of the pool: in Resource Manager, at its endpoint, and in a session."""

from __future__ import annotations

import textwrap
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx

from cci_plugins.azure.pool_resource import PoolResource
from cci_plugins.common.settings import variable

from .azure import pool_of
from .check import Check
from .context import Context
from .findings import Outcome, PointlessError, failed, mapping, ok, unknown, warning
from .reaching import reach

_HERE = "code runs on this machine; no session pool elsewhere is configured"
_HERE_ALONE = ("127.0.0.1", "::1", "localhost")
_SESSION = "doctor"
_TRY = textwrap.dedent("""
    def _reach(url):
        import ssl, urllib.error, urllib.request
        try:
            urllib.request.urlopen(url, timeout=10).close()
        except urllib.error.HTTPError:
            pass
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ssl.SSLError):
                return type(error.reason).__name__
        except OSError as error:
            return type(error).__name__
        return "reached"
    print(_reach({url!r}))
    del _reach
""")


async def _properties(context: Context) -> dict[str, Any]:
    if context.is_local:
        raise PointlessError(_HERE)
    return mapping((await pool_of(context) or {}).get("properties"))


def _is_custom(properties: dict[str, Any]) -> bool:
    return str(properties.get("containertype", "")).lower() == "customcontainer"


async def _exists(context: Context) -> Outcome:
    if context.is_local:
        raise PointlessError(_HERE)
    found = await pool_of(context)
    name = "" if context.pool_parts is None else context.pool_parts[3]
    shown = context.mask.name("session pool", name)
    if found is None:
        return failed(
            f"there is no session pool {shown} in the resource group",
            "cci provision up; or correct AZURE_SESSION_POOL_RESOURCE_ID",
        )
    kind = "custom-container" if _is_custom(mapping(found.get("properties"))) else "managed"
    return ok(f"{kind} session pool {shown} is there")


async def _state(context: Context) -> Outcome:
    properties = await _properties(context)
    state = str(properties.get("provisioningstate") or "unknown")
    if state.lower() in {"failed", "canceled"}:
        return failed(f"the pool's last change {state.lower()}", "cci provision up")
    if state.lower() != "succeeded":
        return warning(
            f"the pool is being changed ({state}), which takes minutes, up to an hour",
            "wait, then run cci doctor again",
        )
    network = mapping(properties.get("sessionnetworkconfiguration")).get("status", "unknown")
    return ok(f"the pool is ready; network of its sessions: {network}")


async def _mcp_settings(context: Context) -> Outcome:
    properties = await _properties(context)
    given = mapping(properties.get("mcpserversettings"))
    on = bool(given.get("ismcpserverenabled")) or bool(given.get("mcpserverendpoint"))
    by_mcp = context.settings.chosen_pool == "platform"
    if on:
        return ok("the pool's MCP server is switched on")
    if not by_mcp:
        return ok("the pool has no MCP server of the platform's, and these settings use none")
    management = context.mask.name("endpoint", str(properties.get("poolmanagementendpoint") or ""))
    if _is_custom(properties):
        return failed(
            "the pool has no MCP server: Azure accepts mcpServerSettings on a custom-container "
            "pool and drops them (github.com/microsoft-foundry/foundry-samples/issues/822)",
            f"set CCI_POOL=custom and AZURE_SESSION_POOL_ENDPOINT={management}; for clients of "
            "MCP put cci serve --pool custom in front",
        )
    return failed("the pool's MCP server is not switched on", "cci provision up --kind python")


async def _address(context: Context) -> Outcome:
    properties, known = await _properties(context), context.settings
    by_mcp = known.chosen_pool == "platform"
    given = known.mcp_endpoint if by_mcp else known.endpoint
    mcp = mapping(properties.get("mcpserversettings")).get("mcpserverendpoint")
    own = str(mcp if by_mcp else properties.get("poolmanagementendpoint") or "")
    name = variable("mcp_endpoint" if by_mcp else "endpoint")
    if given is None:
        raise PointlessError("the endpoint is asked of Azure")
    if not own:
        return unknown("Azure tells no endpoint of the pool", "run cci doctor again in a minute")
    if given.rstrip("/").lower() != own.rstrip("/").lower():
        shown = context.mask.name("endpoint", own)
        return failed(f"{name} is not this pool's endpoint", f"set {name}={shown}")
    return ok(f"{name} is this pool's endpoint")


async def _key(context: Context) -> Outcome:
    known = context.settings
    if known.chosen_pool != "platform" or known.resource_id is None:
        raise PointlessError("no key has to be fetched")
    resource = PoolResource(
        known.resource_id, credential=context.credential, endpoint=context.arm_endpoint
    )
    try:
        fetched = await resource.fetch_key()
    finally:
        await resource.aclose()
    given = known.mcp_key
    if given is not None and given.get_secret_value() != fetched:
        return warning(
            "AZURE_SESSION_POOL_MCP_KEY is not the pool's key any more; it is fetched instead",
            "unset AZURE_SESSION_POOL_MCP_KEY",
        )
    return ok("the pool gives its key")


async def _endpoint(context: Context) -> Outcome:
    """Whether anybody answers there; every answer will do."""
    if context.is_local:
        raise PointlessError(_HERE)
    url = await _url(context)
    shown = context.mask.name("endpoint", url)
    answer = await reach(str(httpx.URL(url).join("/")), "the pool")
    where = httpx.URL(url)
    if where.scheme != "https" and where.host not in _HERE_ALONE:
        return warning(
            f"{shown} answers ({answer.status_code}), and is sent the key without encryption",
            "give the server a certificate and name it by https; else keep it in a private network",
        )
    return ok(f"{shown} answers ({answer.status_code})")


async def _url(context: Context) -> str:
    known = context.settings
    if known.chosen_pool == "custom":
        given = known.endpoint
    else:
        given = known.mcp_endpoint or mapping(
            (await _properties(context)).get("mcpserversettings")
        ).get("mcpserverendpoint")
    if not given:
        raise PointlessError("no endpoint is known")
    return str(given)


async def _tools(context: Context) -> Outcome:
    if context.is_local:
        raise PointlessError(_HERE)
    await (await context.interpreter()).start()
    if context.settings.chosen_pool == "platform":
        return ok("the MCP server answers and has the tool that runs Python")
    return ok("there is a token to send; which interface the pool has, the first run finds out")


async def _run(context: Context) -> Outcome:
    if context.is_local:
        raise PointlessError("local.kernel has run 1+1")
    execution = await (await context.interpreter()).session(_SESSION).run_code("1+1")
    execution.raise_for_error()
    if execution.text.strip() != "2":
        return failed(
            f"the pool answered {context.mask.text(execution.text[:40])!r} to 1+1", "cci run '1+1'"
        )
    return ok("the pool ran 1+1")


async def _egress(context: Context) -> Outcome:
    known = context.settings
    if known.storage_account is None:
        raise PointlessError("no storage account is configured that sessions would have to reach")
    from cci_plugins.files.blob import Address

    url = Address.of(known.storage_account).url
    context.mask.name("storage account", known.storage_account)
    context.need("local.kernel")
    session = (await context.interpreter()).session(_SESSION)
    execution = await session.run_code(_TRY.format(url=url))
    execution.raise_for_error()
    said = context.mask.text(execution.stdout)
    if said == "reached":
        return ok("sessions reach the storage account")
    host = urlsplit(url).hostname or ""
    mend = (
        f"CCI_EGRESS={context.mask.name('storage host', host)}"
        if context.is_local
        else "az containerapp sessionpool update --network-status EgressEnabled -n NAME -g GROUP"
    )
    return warning(
        f"sessions do not reach the storage account ({said}), so large files go in pieces", mend
    )


_LONG = timedelta(minutes=4)
CHECKS = (
    Check("pool.exists", _exists, "cci provision up", ("auth.subscription",)),
    Check("pool.state", _state, "cci provision up", ("pool.exists",)),
    Check("pool.mcp-settings", _mcp_settings, "cci provision up", ("pool.exists",)),
    Check("pool.address", _address, "cci provision show", ("pool.exists",)),
    Check("pool.key", _key, "cci provision show", ("pool.exists", "pool.mcp-settings")),
    Check(
        "pool.endpoint",
        _endpoint,
        "check the address, the network and HTTPS_PROXY; a pool in a virtual network answers "
        "only there",
        ("local.settings", "pool.exists"),
    ),
    Check(
        "pool.tools",
        _tools,
        "cci --debug run '1+1'",
        ("pool.endpoint", "pool.mcp-settings", "pool.key", "auth.token"),
    ),
    Check("pool.run", _run, "cci --debug run '1+1'", ("pool.tools", "pool.state"), _LONG),
    Check("pool.egress", _egress, "cci --debug run '1+1'", ("pool.run",), _LONG),
)
