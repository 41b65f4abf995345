"""Checks of the subscription: provider, feature, region, and what the sign-in may do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from cci_plugins.errors import CodeInterpreterError, ProvisioningError

from .check import Check
from .context import Context
from .findings import Outcome, PointlessError, UnknownError, failed, mapping, ok, unknown, warning

_APP = "Microsoft.App"
_FEATURE = "SessionPoolsSupportMCP"
_EXECUTE = "Microsoft.App/sessionPools/"  # begins every data action of a session pool
_NO_SUBSCRIPTION = "no subscription is named"
_NO_POOL = "the resource id of the pool is not known; AZURE_SESSION_POOL_RESOURCE_ID names it"
_AGAIN = "wait a few minutes, then run cci doctor again"


def _subscription(context: Context) -> str:
    if context.subscription is None:
        raise PointlessError(_NO_SUBSCRIPTION)
    return f"/subscriptions/{context.subscription}"


async def _provider(context: Context) -> Outcome:
    state = str((await _described(context)).get("registrationstate", "")).lower()
    mend = f"az provider register --namespace {_APP} --wait"
    if state == "registering":
        return warning(f"the provider {_APP} is being registered", _AGAIN)
    if state != "registered":
        return failed(f"the provider {_APP} is not registered in the subscription", mend)
    return ok(f"the provider {_APP} is registered")


async def _described(context: Context) -> dict[str, Any]:
    """The provider, as Resource Manager describes it."""
    path = f"{_subscription(context)}/providers/{_APP}"
    return mapping(await context.get(path, "RESOURCES", f"provider {_APP}"))


async def _feature(context: Context) -> Outcome:
    subscription = _subscription(context)
    if context.settings.chosen_pool == "custom":
        raise PointlessError("only the platform's own MCP server needs it")
    path = f"{subscription}/providers/Microsoft.Features/providers/{_APP}/features/{_FEATURE}"
    found = await context.get(path, "FEATURES", f"feature {_FEATURE}")
    if found is None:
        return ok(f"Azure knows no feature {_FEATURE} any more, so it needs none")
    state = str(mapping(found.get("properties")).get("state", ""))
    if state.lower() in {"registering", "pending"}:
        return warning(
            f"the feature {_FEATURE} is {state}, which takes up to half an hour",
            f"wait, then run: az provider register --namespace {_APP}",
        )
    if state.lower() != "registered":
        return failed(
            f"the feature {_FEATURE} is not registered, so a pool gets no MCP server",
            f"az feature register --namespace {_APP} --name {_FEATURE}",
        )
    return ok(f"the feature {_FEATURE} is registered")


async def _region(context: Context) -> Outcome:
    described = await _described(context)
    place = await _place(context)
    types = [mapping(one) for one in described.get("resourcetypes") or []]
    pools = next((one for one in types if str(one.get("resourcetype")) == "sessionPools"), None)
    if pools is None:
        return unknown("Azure does not say where there are session pools", _AGAIN)
    regions = sorted({_short(one) for one in pools.get("locations") or []})
    if place not in regions:
        return failed(
            f"there are no session pools in {place}",
            f"choose another region, such as {', '.join(regions[:3])}: AZURE_LOCATION",
        )
    return ok(f"there are session pools in {place}")


async def _place(context: Context) -> str:
    """The region: of the pool, or the one that is set."""
    try:
        found = await pool_of(context) if context.pool_parts is not None else None
    except CodeInterpreterError:
        raise PointlessError("the pool cannot be read") from None
    place = (found or {}).get("location") or context.settings.location
    if not place:
        raise PointlessError("no region is named")
    return _short(place)


def _short(region: object) -> str:
    return str(region).replace(" ", "").lower()


async def pool_of(context: Context) -> Mapping[str, Any] | None:
    """The pool, as Resource Manager tells it."""
    parts = context.pool_parts
    if parts is None:
        raise PointlessError(_NO_POOL)
    return await context.get(parts[0], "APP", "session pool")


class _Right(NamedTuple):
    """Something that the sign-in must be allowed to do, and the role that brings it."""

    action: str
    role: str
    data: bool = False


_MAKE = _Right("Microsoft.App/sessionPools/write", "Contributor")
_GIVE = _Right(
    "Microsoft.Authorization/roleAssignments/write", "Role Based Access Control Administrator"
)
_KEY = _Right(
    "Microsoft.App/sessionPools/fetchMcpServerCredentials/action",
    "Container Apps SessionPools Contributor",
)
_RUN = _Right(_EXECUTE, "Azure ContainerApps Session Executor", data=True)
_BLOBS = _Right(
    "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write",
    "Storage Blob Data Contributor",
    data=True,
)
_SIGN = _Right(
    "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action",
    "Storage Blob Delegator",
)


async def _may_provision(context: Context) -> Outcome:
    group = await _group(context)
    lacking = await _lacking(context, group, (_MAKE, _GIVE))
    if lacking:
        return warning(
            f"this sign-in may not provision in the resource group: no {lacking[0].role}",
            f"only for cci provision: {_assign(context, lacking[0], group)}",
        )
    return ok("this sign-in may provision in the resource group")


async def _may_fetch_key(context: Context) -> Outcome:
    if context.settings.chosen_pool != "platform" or context.settings.resource_id is None:
        raise PointlessError("no key has to be fetched")
    return await _may(context, _pool_id(context), (_KEY,), "fetch the pool's key")


async def _may_execute(context: Context) -> Outcome:
    if context.settings.chosen_pool != "custom" or context.settings.access_token is not None:
        raise PointlessError("no pool that asks for a role is configured")
    return await _may(context, _pool_id(context), (_RUN,), "run code in the pool")


async def _may_stage(context: Context) -> Outcome:
    known, what = context.settings, "stage files in the storage account"
    if known.storage_account is None or known.storage_key is not None:
        raise PointlessError("no storage account that asks for a role is configured")
    account = await _account(context, known.storage_account)
    container = f"{account}/blobServices/default/containers/{known.storage_container}"
    written = await _may(context, container, (_BLOBS,), what)
    return await _may(context, account, (_SIGN,), what) if written.status == "ok" else written


async def _may(context: Context, scope: str, rights: tuple[_Right, ...], what: str) -> Outcome:
    lacking = await _lacking(context, scope, rights)
    if not lacking:
        return ok(f"this sign-in may {what}")
    roles = " and ".join(right.role for right in lacking)
    return failed(
        f"this sign-in may not {what}: it lacks {roles}", _assign(context, lacking[0], scope)
    )


def _assign(context: Context, right: _Right, scope: str) -> str:
    where = context.mask.name("scope", scope)
    return f'az role assignment create --role "{right.role}" --assignee YOU --scope {where}'


def _pool_id(context: Context) -> str:
    if context.pool_parts is None:
        raise PointlessError(_NO_POOL)
    return context.pool_parts[0]


async def _group(context: Context) -> str:
    parts, group = context.pool_parts, context.settings.resource_group
    if parts is not None:
        return f"/subscriptions/{parts[1]}/resourceGroups/{parts[2]}"
    if group is None:
        raise PointlessError("no resource group is named")
    context.mask.name("resource group", group)
    return f"{_subscription(context)}/resourceGroups/{group}"


async def _account(context: Context, account: str) -> str:
    """The resource id of a storage account, which is looked for beside the pool."""
    group = await _group(context)
    found = await context.list(f"{group}/resources", "RESOURCES", "resource group")
    for one in found:
        is_account = str(one.get("type")).lower() == "microsoft.storage/storageaccounts"
        if is_account and str(one.get("name")).lower() == account.lower():
            return str(one["id"])
    raise PointlessError("the storage account is not in the pool's resource group")


async def _lacking(context: Context, scope: str, rights: tuple[_Right, ...]) -> list[_Right]:
    """The rights that none of the sign-in's roles brings, on a scope or above it."""
    try:
        given = [one async for one in _permissions(context, scope)]
    except ProvisioningError as error:
        raise UnknownError(f"the roles cannot be read: {error}") from None
    return [right for right in rights if not any(_brings(one, right) for one in given)]


async def _permissions(context: Context, scope: str) -> AsyncIterator[dict[str, Any]]:
    """What the roles allow, whose they are: the sign-in's own or its groups', inherited too."""
    principal = await context.principal()
    if not principal:
        raise PointlessError("the sign-in does not say who it is")
    assigned = await context.list(
        f"{scope}/providers/Microsoft.Authorization/roleAssignments",
        "ROLES",
        "role assignments",
        filter=f"assignedTo('{principal}')",
    )
    for role in {str(mapping(one.get("properties")).get("roledefinitionid")) for one in assigned}:
        definition = await context.get(role, "ROLES", "role")
        properties = mapping((definition or {}).get("properties"))
        for permission in properties.get("permissions") or []:
            yield mapping(permission)


def _brings(permission: dict[str, Any], right: _Right) -> bool:
    names = ("dataactions", "notdataactions") if right.data else ("actions", "notactions")
    given, taken = (list(_lower(permission.get(name))) for name in names)
    wanted = right.action.lower()
    if right is _RUN:  # of a pool there are many; a role with one of them was made to run code
        return any(one == "*" or one.startswith(wanted) for one in given)
    return any(fnmatchcase(wanted, one) for one in given) and not any(
        fnmatchcase(wanted, one) for one in taken
    )


def _lower(actions: Any) -> Iterator[str]:
    return (str(one).lower() for one in actions or [])


_READ = "have the role Reader given to this sign-in on the subscription"
_SEEN = ("auth.subscription",)
CHECKS = (
    Check("azure.provider", _provider, _READ, _SEEN),
    Check("azure.feature", _feature, _READ, _SEEN),
    Check("azure.region", _region, _READ, _SEEN),
    Check("azure.roles.provision", _may_provision, _READ, _SEEN),
    Check("azure.roles.key", _may_fetch_key, _READ, _SEEN),
    Check("azure.roles.execute", _may_execute, _READ, _SEEN),
    Check("azure.roles.storage", _may_stage, _READ, _SEEN),
)
