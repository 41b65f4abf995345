"""Checks of the pool: in Resource Manager, at its endpoint, and in a session."""

from __future__ import annotations

import textwrap
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx

from cci_plugins.azure.custom_container import describe_container
from cci_plugins.azure.pool_resource import PoolResource
from cci_plugins.common.settings import get_variable_name

from .azure import read_pool
from .context import Check, Context
from .findings import (
    Outcome,
    SkipCheckError,
    lower_keys,
)
from .reachability import reach

_LOCAL_ONLY = "code runs on this machine, and no session pool is configured"
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
    shown = context.mask.hide_name("session pool", name)
    if found is None:
        return Outcome.failed(
            f"the session pool {shown} does not exist in the resource group",
            "cci provision up; or correct AZURE_SESSION_POOL_RESOURCE_ID",
        )
    kind = "custom-container" if _is_custom(lower_keys(found.get("properties"))) else "managed"
    return Outcome.ok(f"{kind} session pool {shown} exists")


async def _check_state(context: Context) -> Outcome:
    properties = await _read_properties(context)
    state = str(properties.get("provisioningstate") or "unknown")
    if state.lower() in {"failed", "canceled"}:
        return Outcome.failed(f"the pool's last change has the state {state}", "cci provision up")
    if state.lower() != "succeeded":
        return Outcome.warning(
            f"the pool is being changed ({state}), which takes from minutes to an hour",
            "wait, then run cci doctor again",
        )
    problem = await _find_container_problem(context, properties)
    if problem is not None:
        return problem
    network = lower_keys(properties.get("sessionnetworkconfiguration")).get("status", "unknown")
    container = describe_container(properties)
    size = f"; {container}" if container else ""
    return Outcome.ok(f"the pool is ready; network of its sessions: {network}{size}")


async def _find_container_problem(context: Context, properties: dict[str, Any]) -> Outcome | None:
    """Return why the containers of a custom pool do not get ready, where Azure reports it."""
    if context.pool_parts is None or not _is_custom(properties):
        return None
    arm = await context.open_arm()
    from cci_plugins.azure.template_status import read_template_status

    status = await read_template_status(arm, context.pool_parts[0])
    if status is None or status.problem is None:
        return None
    reason = f"its containers do not get ready: {context.mask.clean_text(status.problem)}"
    fix = (
        "check the image's name, the role AcrPull of the pool's identity, and that the container "
        "starts as root; then cci provision up"
    )
    return Outcome.failed(reason, fix)


async def _check_mcp_settings(context: Context) -> Outcome:
    properties = await _read_properties(context)
    mcp_settings = lower_keys(properties.get("mcpserversettings"))
    if mcp_settings.get("ismcpserverenabled") or mcp_settings.get("mcpserverendpoint"):
        return Outcome.ok("the pool's MCP server is enabled")
    if context.settings.chosen_pool != "platform":
        return Outcome.ok("the pool has no MCP server, and these settings do not use one")
    management = context.mask.hide_name(
        "endpoint", str(properties.get("poolmanagementendpoint") or "")
    )
    if _is_custom(properties):
        return Outcome.failed(
            "the pool has no MCP server: Azure accepts mcpServerSettings on a custom-container "
            "pool and drops them (github.com/microsoft-foundry/foundry-samples/issues/822)",
            f"set CCI_POOL=custom and AZURE_SESSION_POOL_ENDPOINT={management}; for MCP clients, "
            "run cci serve --pool custom",
        )
    return Outcome.failed("the pool's MCP server is not enabled", "cci provision up --kind python")


async def _check_address(context: Context) -> Outcome:
    properties, settings = await _read_properties(context), context.settings
    if settings.chosen_pool == "platform":
        given, name = settings.mcp_endpoint, get_variable_name("mcp_endpoint")
        reported = lower_keys(properties.get("mcpserversettings")).get("mcpserverendpoint")
    else:
        given, name = settings.endpoint, get_variable_name("endpoint")
        reported = properties.get("poolmanagementendpoint")
    actual = str(reported or "")
    if given is None:
        raise SkipCheckError("the endpoint is read from Azure")
    if not actual:
        return Outcome.unknown(
            "Azure did not report the pool's endpoint", "run cci doctor again in a minute"
        )
    if given.rstrip("/").lower() != actual.rstrip("/").lower():
        shown = context.mask.hide_name("endpoint", actual)
        return Outcome.failed(f"{name} is not this pool's endpoint", f"set {name}={shown}")
    return Outcome.ok(f"{name} is this pool's endpoint")


async def _check_key(context: Context) -> Outcome:
    settings = context.settings
    if settings.chosen_pool != "platform" or settings.resource_id is None:
        raise SkipCheckError("these settings do not fetch a key")
    resource = PoolResource(
        settings.resource_id, credential=context.credential, endpoint=context.arm_endpoint
    )
    try:
        fetched = await resource.fetch_key()
    finally:
        await resource.aclose()
    given = settings.mcp_key
    if given is not None and given.get_secret_value() != fetched:
        return Outcome.warning(
            "AZURE_SESSION_POOL_MCP_KEY is no longer the pool's key, so the key is fetched instead",
            "unset AZURE_SESSION_POOL_MCP_KEY",
        )
    return Outcome.ok("the pool's key can be fetched")


async def _check_endpoint(context: Context) -> Outcome:
    """Check that a server answers at the endpoint. Any HTTP answer counts."""
    if context.is_local:
        raise SkipCheckError(_LOCAL_ONLY)
    url = await _find_url(context)
    shown = context.mask.hide_name("endpoint", url)
    answer = await reach(str(httpx.URL(url).join("/")), "the pool")
    parsed = httpx.URL(url)
    if parsed.scheme != "https" and parsed.host not in _LOOPBACK_HOSTS:
        return Outcome.warning(
            f"{shown} answers ({answer.status_code}), but the key is sent without encryption",
            "give the server a certificate and use https, or keep it in a private network",
        )
    return Outcome.ok(f"{shown} answers ({answer.status_code})")


async def _find_url(context: Context) -> str:
    settings = context.settings
    if settings.chosen_pool == "custom":
        given = settings.endpoint
    else:
        given = settings.mcp_endpoint or lower_keys(
            (await _read_properties(context)).get("mcpserversettings")
        ).get("mcpserverendpoint")
    if not given:
        raise SkipCheckError("the endpoint is not known")
    return str(given)


async def _check_tools(context: Context) -> Outcome:
    if context.is_local:
        raise SkipCheckError(_LOCAL_ONLY)
    await (await context.open_interpreter()).start()
    if context.settings.chosen_pool == "platform":
        return Outcome.ok("the MCP server answers and has the tool that runs Python")
    return Outcome.ok("an access token is available. The first run detects the pool's interface")


async def _check_run(context: Context) -> Outcome:
    if context.is_local:
        raise SkipCheckError("local.kernel has run 1+1")
    execution = await (await context.open_interpreter()).session(_SESSION).run_code("1+1")
    execution.raise_for_error()
    if execution.text.strip() != "2":
        return Outcome.failed(
            f"the pool returned {context.mask.clean_text(execution.text[:40])!r} for 1+1",
            "cci run '1+1'",
        )
    return Outcome.ok("the pool ran 1+1")


async def _check_egress(context: Context) -> Outcome:
    settings = context.settings
    if settings.storage_account is None:
        raise SkipCheckError("no storage account is configured")
    from cci_plugins.files.blob import AccountAddress

    url = AccountAddress.parse(settings.storage_account).url
    context.mask.hide_name("storage account", settings.storage_account)
    context.require("local.kernel")
    session = (await context.open_interpreter()).session(_SESSION)
    execution = await session.run_code(_REACH_CODE.format(url=url))
    execution.raise_for_error()
    output = context.mask.clean_text(execution.stdout)
    if output == "reached":
        return Outcome.ok("sessions reach the storage account")
    host = urlsplit(url).hostname or ""
    fix = (
        f"CCI_EGRESS={context.mask.hide_name('storage host', host)}"
        if context.is_local
        else "az containerapp sessionpool update --network-status EgressEnabled -n NAME -g GROUP"
    )
    return Outcome.warning(
        f"sessions do not reach the storage account ({output}), so large files are sent in pieces",
        fix,
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
        "check the endpoint, the network and HTTPS_PROXY; a pool in a virtual network answers "
        "only inside it",
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
