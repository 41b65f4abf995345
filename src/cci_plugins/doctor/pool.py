"""Checks of the pool: in Resource Manager, at its endpoint, and in a session."""

from __future__ import annotations

import textwrap
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx

from cci_plugins.azure.pool_resource import PoolResource
from cci_plugins.common.settings import get_variable_name

from .azure import read_pool
from .check import Check
from .context import Context
from .findings import (
    Outcome,
    SkipCheckError,
    lower_keys,
    report_failure,
    report_ok,
    report_unknown,
    report_warning,
)
from .reaching import reach

_LOCAL_ONLY = "code runs on this machine; no session pool elsewhere is configured"
_LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
_SESSION = "doctor"
_REACH_CODE = textwrap.dedent("""
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


async def _read_properties(context: Context) -> dict[str, Any]:
    if context.is_local:
        raise SkipCheckError(_LOCAL_ONLY)
    return lower_keys((await read_pool(context) or {}).get("properties"))


def _is_custom(properties: dict[str, Any]) -> bool:
    return str(properties.get("containertype", "")).lower() == "customcontainer"


async def _check_exists(context: Context) -> Outcome:
    if context.is_local:
        raise SkipCheckError(_LOCAL_ONLY)
    found = await read_pool(context)
    name = "" if context.pool_parts is None else context.pool_parts[3]
    shown = context.mask.name("session pool", name)
    if found is None:
        return report_failure(
            f"there is no session pool {shown} in the resource group",
            "cci provision up; or correct AZURE_SESSION_POOL_RESOURCE_ID",
        )
    kind = "custom-container" if _is_custom(lower_keys(found.get("properties"))) else "managed"
    return report_ok(f"{kind} session pool {shown} is there")


async def _check_state(context: Context) -> Outcome:
    properties = await _read_properties(context)
    state = str(properties.get("provisioningstate") or "unknown")
    if state.lower() in {"failed", "canceled"}:
        return report_failure(f"the pool's last change {state.lower()}", "cci provision up")
    if state.lower() != "succeeded":
        return report_warning(
            f"the pool is being changed ({state}), which takes minutes, up to an hour",
            "wait, then run cci doctor again",
        )
    network = lower_keys(properties.get("sessionnetworkconfiguration")).get("status", "unknown")
    return report_ok(f"the pool is ready; network of its sessions: {network}")


async def _check_mcp_settings(context: Context) -> Outcome:
    properties = await _read_properties(context)
    given = lower_keys(properties.get("mcpserversettings"))
    on = bool(given.get("ismcpserverenabled")) or bool(given.get("mcpserverendpoint"))
    by_mcp = context.settings.chosen_pool == "platform"
    if on:
        return report_ok("the pool's MCP server is switched on")
    if not by_mcp:
        return report_ok(
            "the pool has no MCP server of the platform's, and these settings use none"
        )
    management = context.mask.name("endpoint", str(properties.get("poolmanagementendpoint") or ""))
    if _is_custom(properties):
        return report_failure(
            "the pool has no MCP server: Azure accepts mcpServerSettings on a custom-container "
            "pool and drops them (github.com/microsoft-foundry/foundry-samples/issues/822)",
            f"set CCI_POOL=custom and AZURE_SESSION_POOL_ENDPOINT={management}; for clients of "
            "MCP put cci serve --pool custom in front",
        )
    return report_failure(
        "the pool's MCP server is not switched on", "cci provision up --kind python"
    )


async def _check_address(context: Context) -> Outcome:
    properties, known = await _read_properties(context), context.settings
    by_mcp = known.chosen_pool == "platform"
    given = known.mcp_endpoint if by_mcp else known.endpoint
    mcp = lower_keys(properties.get("mcpserversettings")).get("mcpserverendpoint")
    own = str(mcp if by_mcp else properties.get("poolmanagementendpoint") or "")
    name = get_variable_name("mcp_endpoint" if by_mcp else "endpoint")
    if given is None:
        raise SkipCheckError("the endpoint is asked of Azure")
    if not own:
        return report_unknown(
            "Azure tells no endpoint of the pool", "run cci doctor again in a minute"
        )
    if given.rstrip("/").lower() != own.rstrip("/").lower():
        shown = context.mask.name("endpoint", own)
        return report_failure(f"{name} is not this pool's endpoint", f"set {name}={shown}")
    return report_ok(f"{name} is this pool's endpoint")


async def _check_key(context: Context) -> Outcome:
    known = context.settings
    if known.chosen_pool != "platform" or known.resource_id is None:
        raise SkipCheckError("no key has to be fetched")
    resource = PoolResource(
        known.resource_id, credential=context.credential, endpoint=context.arm_endpoint
    )
    try:
        fetched = await resource.fetch_key()
    finally:
        await resource.aclose()
    given = known.mcp_key
    if given is not None and given.get_secret_value() != fetched:
        return report_warning(
            "AZURE_SESSION_POOL_MCP_KEY is not the pool's key any more; it is fetched instead",
            "unset AZURE_SESSION_POOL_MCP_KEY",
        )
    return report_ok("the pool gives its key")


async def _check_endpoint(context: Context) -> Outcome:
    """Whether anybody answers there; every answer will do."""
    if context.is_local:
        raise SkipCheckError(_LOCAL_ONLY)
    url = await _find_url(context)
    shown = context.mask.name("endpoint", url)
    answer = await reach(str(httpx.URL(url).join("/")), "the pool")
    where = httpx.URL(url)
    if where.scheme != "https" and where.host not in _LOOPBACK_HOSTS:
        return report_warning(
            f"{shown} answers ({answer.status_code}), and is sent the key without encryption",
            "give the server a certificate and name it by https; else keep it in a private network",
        )
    return report_ok(f"{shown} answers ({answer.status_code})")


async def _find_url(context: Context) -> str:
    known = context.settings
    if known.chosen_pool == "custom":
        given = known.endpoint
    else:
        given = known.mcp_endpoint or lower_keys(
            (await _read_properties(context)).get("mcpserversettings")
        ).get("mcpserverendpoint")
    if not given:
        raise SkipCheckError("no endpoint is known")
    return str(given)


async def _check_tools(context: Context) -> Outcome:
    if context.is_local:
        raise SkipCheckError(_LOCAL_ONLY)
    await (await context.open_interpreter()).start()
    if context.settings.chosen_pool == "platform":
        return report_ok("the MCP server answers and has the tool that runs Python")
    return report_ok(
        "there is a token to send; which interface the pool has, the first run finds out"
    )


async def _check_run(context: Context) -> Outcome:
    if context.is_local:
        raise SkipCheckError("local.kernel has run 1+1")
    execution = await (await context.open_interpreter()).session(_SESSION).run_code("1+1")
    execution.raise_for_error()
    if execution.text.strip() != "2":
        return report_failure(
            f"the pool answered {context.mask.text(execution.text[:40])!r} to 1+1", "cci run '1+1'"
        )
    return report_ok("the pool ran 1+1")


async def _check_egress(context: Context) -> Outcome:
    known = context.settings
    if known.storage_account is None:
        raise SkipCheckError("no storage account is configured that sessions would have to reach")
    from cci_plugins.files.blob import AccountAddress

    url = AccountAddress.parse(known.storage_account).url
    context.mask.name("storage account", known.storage_account)
    context.require("local.kernel")
    session = (await context.open_interpreter()).session(_SESSION)
    execution = await session.run_code(_REACH_CODE.format(url=url))
    execution.raise_for_error()
    output = context.mask.text(execution.stdout)
    if output == "reached":
        return report_ok("sessions reach the storage account")
    host = urlsplit(url).hostname or ""
    fix = (
        f"CCI_EGRESS={context.mask.name('storage host', host)}"
        if context.is_local
        else "az containerapp sessionpool update --network-status EgressEnabled -n NAME -g GROUP"
    )
    return report_warning(
        f"sessions do not reach the storage account ({output}), so large files go in pieces", fix
    )


_LONG_LIMIT = timedelta(minutes=4)
CHECKS = (
    Check("pool.exists", _check_exists, "cci provision up", ("auth.subscription",)),
    Check("pool.state", _check_state, "cci provision up", ("pool.exists",)),
    Check("pool.mcp-settings", _check_mcp_settings, "cci provision up", ("pool.exists",)),
    Check("pool.address", _check_address, "cci provision show", ("pool.exists",)),
    Check("pool.key", _check_key, "cci provision show", ("pool.exists", "pool.mcp-settings")),
    Check(
        "pool.endpoint",
        _check_endpoint,
        "check the address, the network and HTTPS_PROXY; a pool in a virtual network answers "
        "only there",
        ("local.settings", "pool.exists"),
    ),
    Check(
        "pool.tools",
        _check_tools,
        "cci --debug run '1+1'",
        ("pool.endpoint", "pool.mcp-settings", "pool.key", "auth.token"),
    ),
    Check(
        "pool.run", _check_run, "cci --debug run '1+1'", ("pool.tools", "pool.state"), _LONG_LIMIT
    ),
    Check("pool.egress", _check_egress, "cci --debug run '1+1'", ("pool.run",), _LONG_LIMIT),
)
