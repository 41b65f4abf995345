"""Checks of the sign-in: who it is, what it sees, what its tokens are for, and the clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from cci_plugins.azure.credentials import decode_claims
from cci_plugins.errors import PoolUnavailableError

from .check import Check
from .context import Context
from .findings import (
    Outcome,
    SkipCheckError,
    report_failure,
    report_ok,
    report_unknown,
    report_warning,
)
from .reaching import reach

_DATA_PLANE = "https://dynamicsessions.io"
_SKEW = timedelta(minutes=5)  # what a SAS of ours begins early by, and what Entra forgives
_NOTICEABLE_SKEW = timedelta(minutes=1)


async def _check_clock(context: Context) -> Outcome:
    """This machine's time beside that of whoever is asked anyway."""
    url = _find_clock_url(context)
    if url is None:
        raise SkipCheckError("nothing outside of this machine is configured")
    before = datetime.now(UTC)
    try:
        answer = await reach(url, "Azure Resource Manager")
    except PoolUnavailableError:
        if context.requires_sign_in:
            raise
        raise SkipCheckError("the pool tells no time; pool.endpoint says why") from None
    try:
        there = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        return report_unknown("the server told no time", "date; timedatectl status")
    apart = abs(there - (before + answer.elapsed / 2))
    words = f"this machine's clock is {apart.total_seconds():.0f} s from Azure's"
    if apart > _SKEW:
        return report_failure(
            f"{words}, so tokens and links are refused", "sudo timedatectl set-ntp true"
        )
    if apart > _NOTICEABLE_SKEW:
        return report_warning(words, "sudo timedatectl set-ntp true")
    return report_ok(words)


def _find_clock_url(context: Context) -> str | None:
    known = context.settings
    if context.requires_sign_in:
        return context.arm_endpoint
    endpoint = known.endpoint or known.mcp_endpoint
    return None if context.is_local or endpoint is None else str(httpx.URL(endpoint).join("/"))


async def _check_sign_in(context: Context) -> Outcome:
    if not context.requires_sign_in:
        raise SkipCheckError("nothing that is configured needs a sign-in to Azure")
    claims = decode_claims(await context.fetch_token(f"{context.arm_endpoint}/.default"))
    who, tenant = str(claims.get("oid") or ""), str(claims.get("tid") or "")
    kind = "an application" if claims.get("idtyp") == "app" else "a user"
    if not who:
        return report_ok("signed in")
    name, place = context.mask.name("object id", who), context.mask.name("tenant", tenant)
    return report_ok(f"signed in as {kind}, {name} of tenant {place}")


async def _check_subscription(context: Context) -> Outcome:
    if not context.requires_sign_in:
        raise SkipCheckError("nothing that is configured needs a sign-in to Azure")
    found = await context.list("/subscriptions", "SUBSCRIPTIONS", "subscriptions")
    states = {str(one.get("subscriptionId")).lower(): str(one.get("state")) for one in found}
    wanted = context.subscription
    if wanted is None:
        if not found:
            return report_failure("this sign-in sees no subscription", "az login --tenant TENANT")
        return report_ok(f"this sign-in sees {len(found)} subscriptions; none is named")
    name = context.mask.name("subscription", wanted)
    state = states.get(wanted.lower())
    if state is None:
        return report_failure(
            f"this sign-in does not see subscription {name}, only {len(found)} others",
            f"az login --tenant TENANT; az account set --subscription {name}",
        )
    if state.lower() not in {"enabled", "none"}:
        return report_failure(
            f"subscription {name} is {state}",
            "have its owner enable it again in the Azure portal, under Subscriptions",
        )
    return report_ok(f"subscription {name} is there and enabled")


async def _check_token(context: Context) -> Outcome:
    """The token that a pool's management endpoint asks for."""
    known = context.settings
    if known.chosen_pool != "custom":
        raise SkipCheckError("no pool that asks for a token is configured")
    if known.access_token is not None:
        return _check_given_token(known.access_token.get_secret_value())
    context.require("auth.sign-in")
    claims = decode_claims(await context.fetch_token(f"{_DATA_PLANE}/.default"))
    return _check_claims(claims, "az login") or report_ok(
        "the sign-in gives a token for session pools"
    )


def _check_given_token(token: str) -> Outcome:
    fix = "unset CCI_ACCESS_TOKEN; or az account get-access-token --resource " + _DATA_PLANE
    claims = decode_claims(token)
    if not claims:
        return report_ok("CCI_ACCESS_TOKEN is set; what it says of itself cannot be read")
    return _check_claims(claims, fix) or report_ok(
        "CCI_ACCESS_TOKEN is for session pools and still holds"
    )


def _check_claims(claims: dict[str, object], fix: str) -> Outcome | None:
    """What is wrong with a token, by what it says of itself."""
    audience, end = claims.get("aud"), claims.get("exp")
    is_address = isinstance(audience, str) and audience.startswith("https:")  # else an app's id
    if is_address and str(audience).rstrip("/") != _DATA_PLANE:
        return report_failure(f"the token is for {str(audience)[:80]}, not for {_DATA_PLANE}", fix)
    if isinstance(end, int | float) and end < time.time():
        minutes = (time.time() - end) / 60
        return report_failure(f"the token expired {minutes:.0f} minutes ago", fix)
    return None


_NEEDS_SETTINGS = ("local.settings",)
CHECKS = (
    Check(
        "clock.skew",
        _check_clock,
        "check the network, and the proxy that HTTPS_PROXY names",
        _NEEDS_SETTINGS,
    ),
    Check("auth.sign-in", _check_sign_in, "az login", _NEEDS_SETTINGS),
    Check("auth.subscription", _check_subscription, "az login; az account list", ("auth.sign-in",)),
    Check("auth.token", _check_token, "az login", _NEEDS_SETTINGS),
)
