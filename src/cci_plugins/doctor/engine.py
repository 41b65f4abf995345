"""The engine that runs the checks in order, each with a time limit.

The order is fixed: this machine, the sign-in, Azure, the pool, storage, Foundry. Each check lists
the checks that it requires. If one of them failed or is unknown, the check is skipped. So is every
check that requires it in turn. `blocked_by` maps each of them to the check at the origin, so that
the user reads one cause. A check that was skipped because it does not apply blocks nothing.

A check returns an `Outcome` or raises. An error of this package is a failure, with its hint as the
fix. Any other exception is a bug in the check, so the result is unknown and the other checks go
on. Foreign text is cleaned before it enters a finding. The context closes at the end, also after a
cancellation, but within 20 seconds.
"""

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
from .context import Check, Context
from .findings import Finding, Mask, Outcome, SkipCheckError, UnknownError

_CHECKS = (
    *machine.CHECKS,
    *sign_in.CHECKS,
    *azure.CHECKS,
    *pool.CHECKS,
    *storage.CHECKS,
    *foundry.CHECKS,
)
CHECKS: tuple[str, ...] = tuple(check.id for check in _CHECKS)
"""Ids of all checks, in the order in which they run."""
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
    """Check everything from this machine to a run in the pool that the environment configures.

    Local checks come first, then the sign-in, then remote resources. A check that an earlier
    failure makes useless is skipped, with the reason. The only changes are that a session of
    the pool runs `1+1`, and that a blob is written and deleted.

    Args:
        credential: Blocking credential of azure-identity for Azure, or None for
            `DefaultAzureCredential`.
        ca: File with the certificate authorities for Resource Manager, or None for those of
            the system.
        local_only: Whether only this machine is checked.
        show_ids: Whether names and ids of resources are shown instead of placeholders such as
            `<session pool>`.
        limit: Time limit of each check, if shorter than the check's own.
        on_check: Called with the id of each check as it begins.

    Yields:
        Result of each check, in the order of `CHECKS`.
    """
    context = Context(credential, Mask(show_ids), ca=ca, local_only=local_only)
    blocked_by: dict[str, str] = {}
    longest = None if limit is None else to_timedelta(limit, "limit")
    try:
        for check in _CHECKS:
            if on_check is not None:
                on_check(check.id)
            finding = await _run_check(check, context, blocked_by, longest)
            context.done[check.id] = finding
            yield finding
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(20):
            await context.aclose()


async def _run_check(
    check: Check, context: Context, blocked_by: dict[str, str], limit: timedelta | None
) -> Finding:
    reason = _find_skip_reason(check, context, blocked_by)
    if reason is not None:
        return Finding(check.id, "skipped", reason)
    start = time.monotonic()
    longest = check.limit if limit is None else min(check.limit, limit)
    outcome = await _run_with_limit(check, context, longest)
    duration = timedelta(seconds=time.monotonic() - start)
    fix = outcome.fix or (check.fix if outcome.status in _BLOCKING_STATUSES else "")
    return Finding(check.id, outcome.status, outcome.message, fix, duration)


def _find_skip_reason(check: Check, context: Context, blocked_by: dict[str, str]) -> str | None:
    if context.local_only and not check.id.startswith(_LOCAL):
        return "only this machine is checked"
    is_settings_ok = context.done.get("local.settings", _PENDING).status not in _BLOCKING_STATUSES
    if not check.id.startswith(_LOCAL) and is_settings_ok and context.is_all_local:
        return "code runs on this machine, and nothing in Azure is configured"
    for earlier in check.requires:
        if context.done[earlier].status in _BLOCKING_STATUSES:
            blocked_by[check.id] = earlier
        elif earlier in blocked_by:
            blocked_by[check.id] = blocked_by[earlier]
        if check.id in blocked_by:
            return f"{blocked_by[check.id]} must succeed first"
    return None


async def _run_with_limit(check: Check, context: Context, limit: timedelta) -> Outcome:
    with anyio.move_on_after(limit.total_seconds()):
        return await _call_check(check, context)
    return Outcome.unknown(f"no answer within {limit.total_seconds():.0f} s", check.fix)


async def _call_check(check: Check, context: Context) -> Outcome:
    clean = context.mask.clean_text
    try:
        return await check.run(context)
    except SkipCheckError as reason:
        return Outcome("skipped", clean(str(reason)))
    except UnknownError as reason:
        return Outcome.unknown(clean(str(reason)), check.fix)
    except CodeInterpreterError as error:
        return Outcome.failed(clean(str(error)), clean(error.hint or ""))
    except Exception as error:  # noqa: BLE001 - the other checks go on
        logger.debug("%s failed", check.id, exc_info=error)
        kind = type(error).__name__
        return Outcome.unknown(
            f"the check itself failed ({kind})", "report the output of: cci --debug doctor"
        )
