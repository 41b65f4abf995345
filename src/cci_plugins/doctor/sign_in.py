"""Checks of the clock, the sign-in, its subscription, and the token for session pools."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from cci_plugins.azure.credentials import decode_claims
from cci_plugins.errors import PoolUnavailableError

from .context import Check, Context
from .findings import (
    Outcome,
    SkipCheckError,
)
from .reachability import reach

_DATA_PLANE = "https://dynamicsessions.io"
_SKEW = timedelta(minutes=5)  # a SAS of this package begins that much early, and Entra tolerates it
_NOTICEABLE_SKEW = timedelta(minutes=1)


async def _check_clock(context: Context) -> Outcome:
    """Compare this machine's time with that of a server that other checks call too."""
    url = _find_clock_url(context)
    if url is None:
        raise SkipCheckError("the settings use only this machine")
    before = datetime.now(UTC)
    try:
        answer = await reach(url, "Azure Resource Manager")
    except PoolUnavailableError:
        if context.requires_sign_in:
            raise
        raise SkipCheckError("the pool does not answer, see pool.endpoint") from None
    try:
        server_time = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        return Outcome.unknown("the server did not send its time", "date; timedatectl status")
    difference = abs(server_time - (before + answer.elapsed / 2))
    message = f"this machine's clock differs from Azure's by {difference.total_seconds():.0f} s"
    if difference > _SKEW:
        return Outcome.failed(
            f"{message}, so tokens and links are refused", "sudo timedatectl set-ntp true"
        )
    if difference > _NOTICEABLE_SKEW:
        return Outcome.warning(message, "sudo timedatectl set-ntp true")
    return Outcome.ok(message)


def _find_clock_url(context: Context) -> str | None:
    settings = context.settings
    if context.requires_sign_in:
        return context.arm_endpoint
    endpoint = settings.endpoint or settings.mcp_endpoint
    return None if context.is_local or endpoint is None else str(httpx.URL(endpoint).join("/"))


async def _check_sign_in(context: Context) -> Outcome:
    if not context.requires_sign_in:
        raise SkipCheckError("nothing that is configured needs a sign-in to Azure")
    claims = decode_claims(await context.fetch_token(f"{context.arm_endpoint}/.default"))
    principal_id, tenant_id = str(claims.get("oid") or ""), str(claims.get("tid") or "")
    kind = "an application" if claims.get("idtyp") == "app" else "a user"
    if not principal_id:
        return Outcome.ok("signed in")
    name = context.mask.hide_name("object id", principal_id)
    tenant = context.mask.hide_name("tenant", tenant_id)
    return Outcome.ok(f"signed in as {kind}, {name} of tenant {tenant}")


async def _check_subscription(context: Context) -> Outcome:
    if not context.requires_sign_in:
        raise SkipCheckError("nothing that is configured needs a sign-in to Azure")
    found = await context.list("/subscriptions", "SUBSCRIPTIONS", "subscriptions")
    states = {str(one.get("subscriptionId")).lower(): str(one.get("state")) for one in found}
    wanted = context.subscription
    if wanted is None:
        if not found:
            return Outcome.failed(
                "this sign-in does not see any subscription", "az login --tenant TENANT"
            )
        return Outcome.ok(
            f"this sign-in sees {len(found)} subscriptions, and the settings choose none"
        )
    name = context.mask.hide_name("subscription", wanted)
    state = states.get(wanted.lower())
    if state is None:
        return Outcome.failed(
            f"this sign-in does not see subscription {name}, only {len(found)} others",
            f"az login --tenant TENANT; az account set --subscription {name}",
        )
    if state.lower() not in {"enabled", "none"}:
        return Outcome.failed(
            f"subscription {name} is {state}",
            "ask its owner to enable it again in the Azure portal, under Subscriptions",
        )
    return Outcome.ok(f"subscription {name} exists and is enabled")


async def _check_token(context: Context) -> Outcome:
    """Check the token for a pool's management endpoint."""
    settings = context.settings
    if settings.chosen_pool != "custom":
        raise SkipCheckError("no pool that requires a token is configured")
    if settings.access_token is not None:
        return _check_given_token(settings.access_token.get_secret_value())
    context.require("auth.sign-in")
    claims = decode_claims(await context.fetch_token(f"{_DATA_PLANE}/.default"))
    return _check_claims(claims, "az login") or Outcome.ok(
        "the sign-in can get a token for session pools"
    )


def _check_given_token(token: str) -> Outcome:
    fix = "unset CCI_ACCESS_TOKEN; or az account get-access-token --resource " + _DATA_PLANE
    claims = decode_claims(token)
    if not claims:
        return Outcome.ok("CCI_ACCESS_TOKEN is set, but its claims cannot be read")
    return _check_claims(claims, fix) or Outcome.ok(
        "CCI_ACCESS_TOKEN is for session pools and has not expired"
    )


def _check_claims(claims: dict[str, object], fix: str) -> Outcome | None:
    """Return a failure if a token's claims show that it does not work, otherwise None."""
    audience, expiry = claims.get("aud"), claims.get("exp")
    is_address = isinstance(audience, str) and audience.startswith(
        "https:"
    )  # otherwise the id of an application
    if is_address and str(audience).rstrip("/") != _DATA_PLANE:
        return Outcome.failed(f"the token is for {str(audience)[:80]}, not for {_DATA_PLANE}", fix)
    if isinstance(expiry, int | float) and expiry < time.time():
        minutes = (time.time() - expiry) / 60
        return Outcome.failed(f"the token expired {minutes:.0f} minutes ago", fix)
    return None


_NEEDS_SETTINGS = ("local.settings",)
CHECKS = (
    Check(
        "clock.skew",
        _check_clock,
        "check the network, and the proxy of HTTPS_PROXY",
        _NEEDS_SETTINGS,
    ),
    Check("auth.sign-in", _check_sign_in, "az login", _NEEDS_SETTINGS),
    Check("auth.subscription", _check_subscription, "az login; az account list", ("auth.sign-in",)),
    Check("auth.token", _check_token, "az login", _NEEDS_SETTINGS),
)
