"""Checks of the sign-in: who it is, what it sees, what its tokens are for, and the clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from cci_plugins.azure.claims import claims_of
from cci_plugins.errors import PoolUnavailableError

from .check import Check
from .context import Context
from .findings import Outcome, PointlessError, failed, ok, unknown, warning
from .reaching import reach

_DATA_PLANE = "https://dynamicsessions.io"
_SKEW = timedelta(minutes=5)  # what a SAS of ours begins early by, and what Entra forgives
_NOTICED = timedelta(minutes=1)


async def _clock(context: Context) -> Outcome:
    """This machine's time beside that of whoever is asked anyway."""
    url = _asked_anyway(context)
    if url is None:
        raise PointlessError("nothing outside of this machine is configured")
    before = datetime.now(UTC)
    try:
        answer = await reach(url, "Azure Resource Manager")
    except PoolUnavailableError:
        if context.signs_in:
            raise
        raise PointlessError("the pool tells no time; pool.endpoint says why") from None
    try:
        there = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        return unknown("the server told no time", "date; timedatectl status")
    apart = abs(there - (before + answer.elapsed / 2))
    words = f"this machine's clock is {apart.total_seconds():.0f} s from Azure's"
    if apart > _SKEW:
        return failed(f"{words}, so tokens and links are refused", "sudo timedatectl set-ntp true")
    if apart > _NOTICED:
        return warning(words, "sudo timedatectl set-ntp true")
    return ok(words)


def _asked_anyway(context: Context) -> str | None:
    known = context.settings
    if context.signs_in:
        return context.arm_endpoint
    endpoint = known.endpoint or known.mcp_endpoint
    return None if context.is_local or endpoint is None else str(httpx.URL(endpoint).join("/"))


async def _sign_in(context: Context) -> Outcome:
    if not context.signs_in:
        raise PointlessError("nothing that is configured needs a sign-in to Azure")
    claims = claims_of(await context.token(f"{context.arm_endpoint}/.default"))
    who, tenant = str(claims.get("oid") or ""), str(claims.get("tid") or "")
    kind = "an application" if claims.get("idtyp") == "app" else "a user"
    if not who:
        return ok("signed in")
    name, place = context.mask.name("object id", who), context.mask.name("tenant", tenant)
    return ok(f"signed in as {kind}, {name} of tenant {place}")


async def _subscription(context: Context) -> Outcome:
    if not context.signs_in:
        raise PointlessError("nothing that is configured needs a sign-in to Azure")
    found = await context.list("/subscriptions", "SUBSCRIPTIONS", "subscriptions")
    states = {str(one.get("subscriptionId")).lower(): str(one.get("state")) for one in found}
    wanted = context.subscription
    if wanted is None:
        if not found:
            return failed("this sign-in sees no subscription", "az login --tenant TENANT")
        return ok(f"this sign-in sees {len(found)} subscriptions; none is named")
    name = context.mask.name("subscription", wanted)
    state = states.get(wanted.lower())
    if state is None:
        return failed(
            f"this sign-in does not see subscription {name}, only {len(found)} others",
            f"az login --tenant TENANT; az account set --subscription {name}",
        )
    if state.lower() not in {"enabled", "none"}:
        return failed(
            f"subscription {name} is {state}",
            "have its owner enable it again in the Azure portal, under Subscriptions",
        )
    return ok(f"subscription {name} is there and enabled")


async def _token(context: Context) -> Outcome:
    """The token that a pool's management endpoint asks for."""
    known = context.settings
    if known.chosen_pool != "custom":
        raise PointlessError("no pool that asks for a token is configured")
    if known.access_token is not None:
        return _given(known.access_token.get_secret_value())
    context.need("auth.sign-in")
    claims = claims_of(await context.token(f"{_DATA_PLANE}/.default"))
    return _of_claims(claims, "az login") or ok("the sign-in gives a token for session pools")


def _given(token: str) -> Outcome:
    mend = "unset CCI_ACCESS_TOKEN; or az account get-access-token --resource " + _DATA_PLANE
    claims = claims_of(token)
    if not claims:
        return ok("CCI_ACCESS_TOKEN is set; what it says of itself cannot be read")
    return _of_claims(claims, mend) or ok("CCI_ACCESS_TOKEN is for session pools and still holds")


def _of_claims(claims: dict[str, object], mend: str) -> Outcome | None:
    """What is wrong with a token, by what it says of itself."""
    audience, end = claims.get("aud"), claims.get("exp")
    is_address = isinstance(audience, str) and audience.startswith("https:")  # else an app's id
    if is_address and str(audience).rstrip("/") != _DATA_PLANE:
        return failed(f"the token is for {str(audience)[:80]}, not for {_DATA_PLANE}", mend)
    if isinstance(end, int | float) and end < time.time():
        minutes = (time.time() - end) / 60
        return failed(f"the token expired {minutes:.0f} minutes ago", mend)
    return None


_KNOWN = ("local.settings",)
CHECKS = (
    Check("clock.skew", _clock, "check the network, and the proxy that HTTPS_PROXY names", _KNOWN),
    Check("auth.sign-in", _sign_in, "az login", _KNOWN),
    Check("auth.subscription", _subscription, "az login; az account list", ("auth.sign-in",)),
    Check("auth.token", _token, "az login", _KNOWN),
)
