"""Checks of the subscription: provider, feature, region, and what the sign-in may do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from cci_plugins.errors import CodeInterpreterError, ProvisioningError

from .check import Check
from .context import Context
from .findings import (
    Outcome,
    SkipCheckError,
    UnknownError,
    lower_keys,
    report_failure,
    report_ok,
    report_unknown,
    report_warning,
)

_APP = "Microsoft.App"
_FEATURE = "SessionPoolsSupportMCP"
_EXECUTE = "Microsoft.App/sessionPools/"  # begins every data action of a session pool
_NO_SUBSCRIPTION = "no subscription is named"
_NO_POOL = "the resource id of the pool is not known; AZURE_SESSION_POOL_RESOURCE_ID names it"
_RETRY_HINT = "wait a few minutes, then run cci doctor again"


def _build_subscription_path(context: Context) -> str:
    if context.subscription is None:
        raise SkipCheckError(_NO_SUBSCRIPTION)
    return f"/subscriptions/{context.subscription}"


async def _check_provider(context: Context) -> Outcome:
    state = str((await _describe_provider(context)).get("registrationstate", "")).lower()
    fix = f"az provider register --namespace {_APP} --wait"
    if state == "registering":
        return report_warning(f"the provider {_APP} is being registered", _RETRY_HINT)
    if state != "registered":
        return report_failure(f"the provider {_APP} is not registered in the subscription", fix)
    return report_ok(f"the provider {_APP} is registered")


async def _describe_provider(context: Context) -> dict[str, Any]:
    """The provider, as Resource Manager describes it."""
    path = f"{_build_subscription_path(context)}/providers/{_APP}"
    return lower_keys(await context.get(path, "RESOURCES", f"provider {_APP}"))


async def _check_feature(context: Context) -> Outcome:
    subscription = _build_subscription_path(context)
    if context.settings.chosen_pool == "custom":
        raise SkipCheckError("only the platform's own MCP server needs it")
    path = f"{subscription}/providers/Microsoft.Features/providers/{_APP}/features/{_FEATURE}"
    found = await context.get(path, "FEATURES", f"feature {_FEATURE}")
    if found is None:
        return report_ok(f"Azure knows no feature {_FEATURE} any more, so it needs none")
    state = str(lower_keys(found.get("properties")).get("state", ""))
    if state.lower() in {"registering", "pending"}:
        return report_warning(
            f"the feature {_FEATURE} is {state}, which takes up to half an hour",
            f"wait, then run: az provider register --namespace {_APP}",
        )
    if state.lower() != "registered":
        return report_failure(
            f"the feature {_FEATURE} is not registered, so a pool gets no MCP server",
            f"az feature register --namespace {_APP} --name {_FEATURE}",
        )
    return report_ok(f"the feature {_FEATURE} is registered")


async def _check_region(context: Context) -> Outcome:
    described = await _describe_provider(context)
    region = await _find_region(context)
    types = [lower_keys(one) for one in described.get("resourcetypes") or []]
    pools = next((one for one in types if str(one.get("resourcetype")) == "sessionPools"), None)
    if pools is None:
        return report_unknown("Azure does not say where there are session pools", _RETRY_HINT)
    regions = sorted({_normalize_region(one) for one in pools.get("locations") or []})
    if region not in regions:
        return report_failure(
            f"there are no session pools in {region}",
            f"choose another region, such as {', '.join(regions[:3])}: AZURE_LOCATION",
        )
    return report_ok(f"there are session pools in {region}")


async def _find_region(context: Context) -> str:
    """The region: of the pool, or the one that is set."""
    try:
        found = await read_pool(context) if context.pool_parts is not None else None
    except CodeInterpreterError:
        raise SkipCheckError("the pool cannot be read") from None
    region = (found or {}).get("location") or context.settings.location
    if not region:
        raise SkipCheckError("no region is named")
    return _normalize_region(region)


def _normalize_region(region: object) -> str:
    return str(region).replace(" ", "").lower()


async def read_pool(context: Context) -> Mapping[str, Any] | None:
    """The pool, as Resource Manager tells it."""
    parts = context.pool_parts
    if parts is None:
        raise SkipCheckError(_NO_POOL)
    return await context.get(parts[0], "APP", "session pool")


class _RequiredAction(NamedTuple):
    """Something that the sign-in must be allowed to do, and the role that brings it."""

    action: str
    role: str
    data: bool = False


_CREATE_POOL = _RequiredAction("Microsoft.App/sessionPools/write", "Contributor")
_ASSIGN_ROLES = _RequiredAction(
    "Microsoft.Authorization/roleAssignments/write", "Role Based Access Control Administrator"
)
_KEY = _RequiredAction(
    "Microsoft.App/sessionPools/fetchMcpServerCredentials/action",
    "Container Apps SessionPools Contributor",
)
_RUN = _RequiredAction(_EXECUTE, "Azure ContainerApps Session Executor", data=True)
_BLOBS = _RequiredAction(
    "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write",
    "Storage Blob Data Contributor",
    data=True,
)
_SIGN = _RequiredAction(
    "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action",
    "Storage Blob Delegator",
)


async def _check_provision_roles(context: Context) -> Outcome:
    group = await _find_group_id(context)
    missing = await _find_missing(context, group, (_CREATE_POOL, _ASSIGN_ROLES))
    if missing:
        return report_warning(
            f"this sign-in may not provision in the resource group: no {missing[0].role}",
            f"only for cci provision: {_format_assign_command(context, missing[0], group)}",
        )
    return report_ok("this sign-in may provision in the resource group")


async def _check_key_role(context: Context) -> Outcome:
    if context.settings.chosen_pool != "platform" or context.settings.resource_id is None:
        raise SkipCheckError("no key has to be fetched")
    return await _check_actions(context, _require_pool_id(context), (_KEY,), "fetch the pool's key")


async def _check_execute_role(context: Context) -> Outcome:
    if context.settings.chosen_pool != "custom" or context.settings.access_token is not None:
        raise SkipCheckError("no pool that asks for a role is configured")
    return await _check_actions(context, _require_pool_id(context), (_RUN,), "run code in the pool")


async def _check_stage_roles(context: Context) -> Outcome:
    known, what = context.settings, "stage files in the storage account"
    if known.storage_account is None or known.storage_key is not None:
        raise SkipCheckError("no storage account that asks for a role is configured")
    account = await _find_account_id(context, known.storage_account)
    container = f"{account}/blobServices/default/containers/{known.storage_container}"
    written = await _check_actions(context, container, (_BLOBS,), what)
    return (
        await _check_actions(context, account, (_SIGN,), what)
        if written.status == "ok"
        else written
    )


async def _check_actions(
    context: Context, scope: str, required_actions: tuple[_RequiredAction, ...], what: str
) -> Outcome:
    missing = await _find_missing(context, scope, required_actions)
    if not missing:
        return report_ok(f"this sign-in may {what}")
    roles = " and ".join(required.role for required in missing)
    return report_failure(
        f"this sign-in may not {what}: it lacks {roles}",
        _format_assign_command(context, missing[0], scope),
    )


def _format_assign_command(context: Context, required: _RequiredAction, scope: str) -> str:
    where = context.mask.name("scope", scope)
    return f'az role assignment create --role "{required.role}" --assignee YOU --scope {where}'


def _require_pool_id(context: Context) -> str:
    if context.pool_parts is None:
        raise SkipCheckError(_NO_POOL)
    return context.pool_parts[0]


async def _find_group_id(context: Context) -> str:
    parts, group = context.pool_parts, context.settings.resource_group
    if parts is not None:
        return f"/subscriptions/{parts[1]}/resourceGroups/{parts[2]}"
    if group is None:
        raise SkipCheckError("no resource group is named")
    context.mask.name("resource group", group)
    return f"{_build_subscription_path(context)}/resourceGroups/{group}"


async def _find_account_id(context: Context, account: str) -> str:
    """The resource id of a storage account, which is looked for beside the pool."""
    group = await _find_group_id(context)
    found = await context.list(f"{group}/resources", "RESOURCES", "resource group")
    for one in found:
        is_account = str(one.get("type")).lower() == "microsoft.storage/storageaccounts"
        if is_account and str(one.get("name")).lower() == account.lower():
            return str(one["id"])
    raise SkipCheckError("the storage account is not in the pool's resource group")


async def _find_missing(
    context: Context, scope: str, required_actions: tuple[_RequiredAction, ...]
) -> list[_RequiredAction]:
    """The rights that none of the sign-in's roles brings, on a scope or above it."""
    try:
        given = [one async for one in _iter_permissions(context, scope)]
    except ProvisioningError as error:
        raise UnknownError(f"the roles cannot be read: {error}") from None
    return [
        required
        for required in required_actions
        if not any(_grants(one, required) for one in given)
    ]


async def _iter_permissions(context: Context, scope: str) -> AsyncIterator[dict[str, Any]]:
    """What the roles allow, whose they are: the sign-in's own or its groups', inherited too."""
    principal = await context.principal()
    if not principal:
        raise SkipCheckError("the sign-in does not say who it is")
    assigned = await context.list(
        f"{scope}/providers/Microsoft.Authorization/roleAssignments",
        "ROLES",
        "role assignments",
        filter=f"assignedTo('{principal}')",
    )
    for role in {
        str(lower_keys(one.get("properties")).get("roledefinitionid")) for one in assigned
    }:
        definition = await context.get(role, "ROLES", "role")
        properties = lower_keys((definition or {}).get("properties"))
        for permission in properties.get("permissions") or []:
            yield lower_keys(permission)


def _grants(permission: dict[str, Any], required: _RequiredAction) -> bool:
    names = ("dataactions", "notdataactions") if required.data else ("actions", "notactions")
    given, denied = (list(_lower_all(permission.get(name))) for name in names)
    wanted = required.action.lower()
    if required is _RUN:  # of a pool there are many; a role with one of them was made to run code
        return any(one == "*" or one.startswith(wanted) for one in given)
    return any(fnmatchcase(wanted, one) for one in given) and not any(
        fnmatchcase(wanted, one) for one in denied
    )


def _lower_all(actions: Any) -> Iterator[str]:
    return (str(one).lower() for one in actions or [])


_READER_HINT = "have the role Reader given to this sign-in on the subscription"
_NEEDS_SUBSCRIPTION = ("auth.subscription",)
CHECKS = (
    Check("azure.provider", _check_provider, _READER_HINT, _NEEDS_SUBSCRIPTION),
    Check("azure.feature", _check_feature, _READER_HINT, _NEEDS_SUBSCRIPTION),
    Check("azure.region", _check_region, _READER_HINT, _NEEDS_SUBSCRIPTION),
    Check("azure.roles.provision", _check_provision_roles, _READER_HINT, _NEEDS_SUBSCRIPTION),
    Check("azure.roles.key", _check_key_role, _READER_HINT, _NEEDS_SUBSCRIPTION),
    Check("azure.roles.execute", _check_execute_role, _READER_HINT, _NEEDS_SUBSCRIPTION),
    Check("azure.roles.storage", _check_stage_roles, _READER_HINT, _NEEDS_SUBSCRIPTION),
)
