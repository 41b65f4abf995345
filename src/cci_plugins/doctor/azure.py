"""Checks of the subscription: provider, feature, region, and the roles of the sign-in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from cci_plugins.errors import CodeInterpreterError, ProvisioningError

from .context import Check, Context
from .findings import (
    Outcome,
    SkipCheckError,
    UnknownError,
    lower_keys,
)

_APP = "Microsoft.App"
_FEATURE = "SessionPoolsSupportMCP"
_EXECUTE = "Microsoft.App/sessionPools/"  # prefix of every data action of a session pool
_NO_SUBSCRIPTION = "the subscription is not set"
_NO_POOL = "the resource id of the pool is not set (AZURE_SESSION_POOL_RESOURCE_ID)"
_RETRY_HINT = "wait a few minutes, then run cci doctor again"


def _build_subscription_path(context: Context) -> str:
    if context.subscription is None:
        raise SkipCheckError(_NO_SUBSCRIPTION)
    return f"/subscriptions/{context.subscription}"


async def _check_provider(context: Context) -> Outcome:
    state = str((await _describe_provider(context)).get("registrationstate", "")).lower()
    fix = f"az provider register --namespace {_APP} --wait"
    if state == "registering":
        return Outcome.warning(f"the provider {_APP} is being registered", _RETRY_HINT)
    if state != "registered":
        return Outcome.failed(f"the provider {_APP} is not registered in the subscription", fix)
    return Outcome.ok(f"the provider {_APP} is registered")


async def _describe_provider(context: Context) -> dict[str, Any]:
    """Return the provider Microsoft.App as Resource Manager describes it."""
    path = f"{_build_subscription_path(context)}/providers/{_APP}"
    return lower_keys(await context.get(path, "RESOURCES", f"provider {_APP}"))


async def _check_feature(context: Context) -> Outcome:
    subscription = _build_subscription_path(context)
    if context.settings.chosen_pool == "custom":
        raise SkipCheckError("only the MCP server of a platform pool needs the feature")
    path = f"{subscription}/providers/Microsoft.Features/providers/{_APP}/features/{_FEATURE}"
    feature = await context.get(path, "FEATURES", f"feature {_FEATURE}")
    if feature is None:
        return Outcome.ok(f"Azure does not list the feature {_FEATURE}, so it is not required")
    state = str(lower_keys(feature.get("properties")).get("state", ""))
    if state.lower() in {"registering", "pending"}:
        return Outcome.warning(
            f"the feature {_FEATURE} is {state}, which takes up to half an hour",
            f"wait, then run: az provider register --namespace {_APP}",
        )
    if state.lower() != "registered":
        return Outcome.failed(
            f"the feature {_FEATURE} is not registered, so a pool gets no MCP server",
            f"az feature register --namespace {_APP} --name {_FEATURE}",
        )
    return Outcome.ok(f"the feature {_FEATURE} is registered")


async def _check_region(context: Context) -> Outcome:
    described = await _describe_provider(context)
    region = await _find_region(context)
    types = [lower_keys(one) for one in described.get("resourcetypes") or []]
    pools = next((one for one in types if str(one.get("resourcetype")) == "sessionPools"), None)
    if pools is None:
        return Outcome.unknown("Azure did not report the regions of session pools", _RETRY_HINT)
    regions = sorted({_normalize_region(one) for one in pools.get("locations") or []})
    if region not in regions:
        return Outcome.failed(
            f"session pools are not available in {region}",
            f"set AZURE_LOCATION to another region, such as {', '.join(regions[:3])}",
        )
    return Outcome.ok(f"session pools are available in {region}")


async def _find_region(context: Context) -> str:
    """Return the region of the pool, or the one in the settings."""
    try:
        pool = await read_pool(context) if context.pool_parts is not None else None
    except CodeInterpreterError:
        raise SkipCheckError("the pool cannot be read") from None
    region = (pool or {}).get("location") or context.settings.location
    if not region:
        raise SkipCheckError("the region is not set")
    return _normalize_region(region)


def _normalize_region(region: object) -> str:
    return str(region).replace(" ", "").lower()


async def read_pool(context: Context) -> Mapping[str, Any] | None:
    """Return the pool from Resource Manager, or None if it does not exist.

    Raises:
        SkipCheckError: The pool's resource id is not set.
    """
    parts = context.pool_parts
    if parts is None:
        raise SkipCheckError(_NO_POOL)
    return await context.get(parts[0], "APP", "session pool")


class _RequiredAction(NamedTuple):
    """Action that the sign-in must be allowed to take, and the role that allows it."""

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
        return Outcome.warning(
            f"this sign-in may not provision in the resource group: it lacks {missing[0].role}",
            f"needed only for cci provision: {_format_assign_command(context, missing[0], group)}",
        )
    return Outcome.ok("this sign-in may provision in the resource group")


async def _check_key_role(context: Context) -> Outcome:
    if context.settings.chosen_pool != "platform" or context.settings.resource_id is None:
        raise SkipCheckError("these settings do not fetch a key")
    return await _check_actions(context, _require_pool_id(context), (_KEY,), "fetch the pool's key")


async def _check_execute_role(context: Context) -> Outcome:
    if context.settings.chosen_pool != "custom" or context.settings.access_token is not None:
        raise SkipCheckError("no pool that requires a role is configured")
    return await _check_actions(context, _require_pool_id(context), (_RUN,), "run code in the pool")


async def _check_stage_roles(context: Context) -> Outcome:
    settings, purpose = context.settings, "stage files in the storage account"
    if settings.storage_account is None or settings.storage_key is not None:
        raise SkipCheckError("no storage account that requires a role is configured")
    account = await _find_account_id(context, settings.storage_account)
    container = f"{account}/blobServices/default/containers/{settings.storage_container}"
    outcome = await _check_actions(context, container, (_BLOBS,), purpose)
    if outcome.status == "ok":
        return await _check_actions(context, account, (_SIGN,), purpose)
    return outcome


async def _check_actions(
    context: Context, scope: str, required_actions: tuple[_RequiredAction, ...], purpose: str
) -> Outcome:
    missing = await _find_missing(context, scope, required_actions)
    if not missing:
        return Outcome.ok(f"this sign-in may {purpose}")
    roles = " and ".join(required.role for required in missing)
    return Outcome.failed(
        f"this sign-in may not {purpose}: it lacks {roles}",
        _format_assign_command(context, missing[0], scope),
    )


def _format_assign_command(context: Context, required: _RequiredAction, scope: str) -> str:
    shown = context.mask.hide_name("scope", scope)
    return f'az role assignment create --role "{required.role}" --assignee YOU --scope {shown}'


def _require_pool_id(context: Context) -> str:
    if context.pool_parts is None:
        raise SkipCheckError(_NO_POOL)
    return context.pool_parts[0]


async def _find_group_id(context: Context) -> str:
    parts, group = context.pool_parts, context.settings.resource_group
    if parts is not None:
        return f"/subscriptions/{parts[1]}/resourceGroups/{parts[2]}"
    if group is None:
        raise SkipCheckError("the resource group is not set")
    context.mask.hide_name("resource group", group)
    return f"{_build_subscription_path(context)}/resourceGroups/{group}"


async def _find_account_id(context: Context, account: str) -> str:
    """Return the resource id of a storage account in the pool's resource group."""
    group = await _find_group_id(context)
    for resource in await context.list(f"{group}/resources", "RESOURCES", "resource group"):
        is_account = str(resource.get("type")).lower() == "microsoft.storage/storageaccounts"
        if is_account and str(resource.get("name")).lower() == account.lower():
            return str(resource["id"])
    raise SkipCheckError("the storage account is not in the pool's resource group")


async def _find_missing(
    context: Context, scope: str, required_actions: tuple[_RequiredAction, ...]
) -> list[_RequiredAction]:
    """Return the actions that no role of the sign-in allows on a scope."""
    try:
        permissions = [permission async for permission in _iter_permissions(context, scope)]
    except ProvisioningError as error:
        raise UnknownError(f"cannot read the roles: {error}") from None
    return [
        required
        for required in required_actions
        if not any(_is_allowed(permission, required) for permission in permissions)
    ]


async def _iter_permissions(context: Context, scope: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the permissions of the sign-in's roles on a scope.

    The roles of its groups, and those inherited from scopes above, are included.
    """
    principal_id = await context.fetch_principal_id()
    if not principal_id:
        raise SkipCheckError("the sign-in's token does not contain an object id")
    assignments = await context.list(
        f"{scope}/providers/Microsoft.Authorization/roleAssignments",
        "ROLES",
        "role assignments",
        filter=f"assignedTo('{principal_id}')",
    )
    for role in {
        str(lower_keys(one.get("properties")).get("roledefinitionid")) for one in assignments
    }:
        definition = await context.get(role, "ROLES", "role")
        properties = lower_keys((definition or {}).get("properties"))
        for permission in properties.get("permissions") or []:
            yield lower_keys(permission)


def _is_allowed(permission: dict[str, Any], required: _RequiredAction) -> bool:
    names = ("dataactions", "notdataactions") if required.data else ("actions", "notactions")
    allowed, denied = (list(_lower_all(permission.get(name))) for name in names)
    action = required.action.lower()
    if required is _RUN:  # a pool has many data actions, and a role with one of them can run code
        return any(one == "*" or one.startswith(action) for one in allowed)
    return any(fnmatchcase(action, one) for one in allowed) and not any(
        fnmatchcase(action, one) for one in denied
    )


def _lower_all(actions: Any) -> Iterator[str]:
    return (str(one).lower() for one in actions or [])


_READER_HINT = "ask an owner to assign the role Reader on the subscription to this sign-in"
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
