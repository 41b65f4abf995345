"""Smoke test of a new pool: run `1+1` in it.

A refusal may only mean that a role is not known everywhere yet. So it is repeated for a while,
but only where a role decides: for a custom pool's data plane, and for the key of a managed pool.
A managed pool's own answer to that key does not depend on a role.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from secrets import token_hex

import anyio

from cci_plugins.azure.failures import FORBIDDEN, ArmError
from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    PoolUnavailableError,
    ProvisioningError,
)
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.azure.remote_pool import RETRY_WINDOW
from cci_plugins.pools.azure.rest_pool import CustomSessionPool
from cci_plugins.pools.base import SessionPool

from .access import SESSION_EXECUTOR
from .deployment import Deployment
from .deployment_run import DeploymentRun, StepReporter
from .keys import fetch_key

_STEP = "trial run"
_EXPECTED = "2"
_RUN_TIMEOUT = timedelta(seconds=100)
_KEY_ATTEMPTS = 3  # a new key may not be known to the pool at once
_ROLE, _POOL = "until the new role is known everywhere", "until the pool is available"


async def smoke_test(run: DeploymentRun, deployment: Deployment) -> None:
    """Run `1+1`, and repeat it for a while in case the role is not known everywhere yet.

    Args:
        run: The deployment.
        deployment: The pool.

    Raises:
        ProvisioningError: The pool does not run the code.
    """
    reporter = StepReporter(run.report, _STEP)
    reporter.report("working", "running 1+1 in the pool; the first run takes up to a minute")
    deadline = time.monotonic() + run.azure.settling.total_seconds()
    refusals = 0
    while True:
        try:
            text = await _run_code(run, deployment)
            break
        except CodeInterpreterError as error:
            refusals += isinstance(error, AuthenticationError)
            reason = _find_reason_to_wait(error, deployment, refusals)
            if isinstance(error, AuthenticationError) and _find_missing_role(run):
                reason = None  # nobody has assigned the role, so it will not become known
            if reason is None or time.monotonic() > deadline:
                raise _build_error(run, error, deployment) from error
        reporter.report_waiting(reason)
        await anyio.sleep(run.azure.polling.total_seconds())
    if text.strip() != _EXPECTED:
        raise ProvisioningError(
            f"{_STEP}: the pool answered {text[:80]!r} to 1+1",
            hint="run: cci run '1+1'",
            step=_STEP,
        )
    reporter.report("kept", "the pool ran 1+1")


def _find_reason_to_wait(
    error: CodeInterpreterError, deployment: Deployment, refusals: int
) -> str | None:
    """Return why the run may succeed later, or None if it will not."""
    if isinstance(error, PoolUnavailableError):
        return _POOL
    if isinstance(error, ArmError):
        return _ROLE if error.status == FORBIDDEN else None
    if not isinstance(error, AuthenticationError):
        return None
    if deployment.kind == "python":
        return "until the pool knows its key" if refusals < _KEY_ATTEMPTS else None
    return _ROLE


async def _run_code(run: DeploymentRun, deployment: Deployment) -> str:
    pool = await _open_pool(run, deployment)
    session_id = f"cci-trial-{token_hex(8)}"
    try:
        execution = await pool.execute(session_id, "1+1", timeout=_RUN_TIMEOUT)
        with suppress(CodeInterpreterError):  # the session ends by its cooldown too
            await pool.delete_session(session_id)
    finally:
        await pool.aclose()
    return execution.text


async def _open_pool(run: DeploymentRun, deployment: Deployment) -> SessionPool:
    """Open the pool with the sign-in of the deployment."""
    patience = min(RETRY_WINDOW, run.azure.settling)
    if deployment.kind == "python":
        key = await fetch_key(run.arm, deployment.pool_id)
        return PlatformSessionPool(
            deployment.mcp_endpoint, key=key, credential=run.arm.credential, patience=patience
        )
    return CustomSessionPool(
        deployment.pool_endpoint, credential=run.arm.credential, patience=patience
    )


def _find_missing_role(run: DeploymentRun) -> str | None:
    """Return the command that assigns the role for running code, if `up` could not do it."""
    return next((line for role, line in run.unassigned if role == SESSION_EXECUTOR.id), None)


def _build_error(
    run: DeploymentRun, error: CodeInterpreterError, deployment: Deployment
) -> ProvisioningError:
    hint = error.hint or "run: cci run '1+1'"
    if isinstance(error, AuthenticationError) and (missing := _find_missing_role(run)):
        hint = f"ask somebody to run: {missing}"
    elif isinstance(error, AuthenticationError) and deployment.kind == "python":
        hint = "the pool refuses its own key: run cci provision rotate-key, then this again"
    return ProvisioningError(f"{_STEP}: {error}", hint=hint, step=_STEP)
