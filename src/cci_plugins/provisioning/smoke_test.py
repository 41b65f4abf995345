"""Smoke test of a new pool: run `1+1` in it."""

from __future__ import annotations

import time

import anyio

from cci_plugins.core.interpreter import CodeInterpreter
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

from .deployment import Deployment
from .deployment_run import DeploymentRun, StepReporter

_STEP = "trial run"
_EXPECTED = "2"


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
    while True:
        try:
            text = await _run_code(run, deployment)
            break
        except (AuthenticationError, PoolUnavailableError) as error:
            if time.monotonic() > deadline:
                raise _build_error(error) from error
        except CodeInterpreterError as error:
            raise _build_error(error) from error
        reporter.report_waiting("until the new role is known everywhere")
        await anyio.sleep(run.azure.polling.total_seconds())
    if text.strip() != _EXPECTED:
        raise ProvisioningError(
            f"{_STEP}: the pool answered {text[:80]!r} to 1+1",
            hint="run: cci run '1+1'",
            step=_STEP,
        )
    reporter.report("kept", "the pool ran 1+1")


async def _run_code(run: DeploymentRun, deployment: Deployment) -> str:
    async with CodeInterpreter(_open_pool(run, deployment)) as interpreter:
        execution = await interpreter.run_code("1+1")
    return execution.text


def _open_pool(run: DeploymentRun, deployment: Deployment) -> SessionPool:
    """Open the pool with the sign-in of the deployment."""
    credential, patience = run.arm.credential, min(RETRY_WINDOW, run.azure.settling)
    if deployment.kind == "python":
        return PlatformSessionPool(
            deployment.mcp_endpoint,
            resource_id=deployment.pool_id,
            credential=credential,
            arm_endpoint=run.azure.endpoint,
            patience=patience,
        )
    return CustomSessionPool(deployment.pool_endpoint, credential=credential, patience=patience)


def _build_error(error: CodeInterpreterError) -> ProvisioningError:
    return ProvisioningError(
        f"{_STEP}: {error}", hint=error.hint or "run: cci run '1+1'", step=_STEP
    )
