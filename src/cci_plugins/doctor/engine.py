"""The checks in their order, each bounded, each skipped where an earlier one makes it pointless."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from pathlib import Path

import anyio

from cci_plugins.azure.credentials import TokenCredential
from cci_plugins.common.durations import Duration, to_timedelta
from cci_plugins.common.log import logger
from cci_plugins.errors import CodeInterpreterError

from . import azure, foundry, machine, pool, sign_in, storage
from .check import Check, build_finding
from .context import Context
from .findings import (
    Finding,
    Mask,
    Outcome,
    SkipCheckError,
    UnknownError,
    report_failure,
    report_unknown,
)

_CHECKS = (
    *machine.CHECKS,
    *sign_in.CHECKS,
    *azure.CHECKS,
    *pool.CHECKS,
    *storage.CHECKS,
    *foundry.CHECKS,
)
CHECKS: tuple[str, ...] = tuple(check.id for check in _CHECKS)
"""The ids of all checks, in the order they are made."""
_LOCAL = "local."
_BLOCKING_STATUSES = {"failed", "unknown"}
_PENDING = Finding("", "unknown", "")


async def diagnose(
    *,
    credential: TokenCredential | None = None,
    ca: Path | None = None,
    local_only: bool = False,
    show_ids: bool = False,
    limit: Duration | None = None,
    on_check: Callable[[str], object] | None = None,
) -> AsyncGenerator[Finding]:
    """Check the chain from this machine to a run in the pool that the environment names.

    Local checks come first, then the sign-in, then what is remote. One that an earlier failure
    makes pointless is skipped and says so. Nothing is changed, but that a session of the pool
    runs `1+1` and a blob is written and deleted.

    Args:
        credential: Signs in to Azure, a blocking one of azure-identity; `DefaultAzureCredential`
            when None.
        ca: Certificate authorities that Resource Manager's address is checked by, as a file,
            instead of the system's.
        local_only: Whether nothing but this machine is looked at.
        show_ids: Whether names and ids of resources are shown, instead of `<session pool>`.
        limit: The longest one check may take, where its own is longer.
        on_check: Told the id of each check as it begins.

    Yields:
        What each check found out, in the order of `CHECKS`.
    """
    context = Context(credential, Mask(show_ids), ca=ca, local_only=local_only)
    blocked_by: dict[str, str] = {}
    longest = None if limit is None else to_timedelta(limit, "limit")
    try:
        for check in _CHECKS:
            if on_check is not None:
                on_check(check.id)
            found = await _run_check(check, context, blocked_by, longest)
            context.done[check.id] = found
            yield found
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(20):
            await context.aclose()


async def _run_check(
    check: Check, context: Context, blocked_by: dict[str, str], limit: timedelta | None
) -> Finding:
    """One check, as it is told."""
    reason = _find_skip_reason(check, context, blocked_by)
    if reason is not None:
        return Finding(check.id, "skipped", reason)
    start = time.monotonic()
    longest = check.limit if limit is None else min(check.limit, limit)
    outcome = await _run_with_limit(check, context, longest)
    return build_finding(check, outcome, time.monotonic() - start)


def _find_skip_reason(check: Check, context: Context, blocked_by: dict[str, str]) -> str | None:
    """Why a check would say nothing here, or None."""
    if context.local_only and not check.id.startswith(_LOCAL):
        return "only this machine is looked at"
    is_settings_ok = context.done.get("local.settings", _PENDING).status not in _BLOCKING_STATUSES
    if not check.id.startswith(_LOCAL) and is_settings_ok and context.is_all_local:
        return "code runs on this machine, and nothing in Azure is configured"
    for earlier in check.requires:
        if context.done[earlier].status in _BLOCKING_STATUSES:
            blocked_by[check.id] = earlier
        elif earlier in blocked_by:
            blocked_by[check.id] = blocked_by[earlier]
        if check.id in blocked_by:
            return f"{blocked_by[check.id]} comes first"
    return None


async def _run_with_limit(check: Check, context: Context, limit: timedelta) -> Outcome:
    """What a check says, in the time it has."""
    with anyio.move_on_after(limit.total_seconds()):
        return await _call_check(check, context)
    return report_unknown(f"there was no answer within {limit.total_seconds():.0f} s", check.fix)


async def _call_check(check: Check, context: Context) -> Outcome:
    try:
        return await check.run(context)
    except SkipCheckError as reason:
        return Outcome("skipped", context.mask.text(str(reason)))
    except UnknownError as reason:
        return report_unknown(context.mask.text(str(reason)), check.fix)
    except CodeInterpreterError as error:
        return report_failure(context.mask.text(str(error)), context.mask.text(error.hint or ""))
    except Exception as error:  # noqa: BLE001 - the other checks go on
        logger.debug("%s failed", check.id, exc_info=error)
        kind = type(error).__name__
        return report_unknown(
            f"the check itself failed ({kind})", "cci --debug doctor; please report it"
        )
