"""Watch over a custom pool while Azure creates it, so that a hopeless one is not waited for.

Azure may take an hour, or never end, where the image cannot be pulled or the container crashes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from cci_plugins.azure.resource import Resource
from cci_plugins.azure.template_status import read_template_status
from cci_plugins.errors import ProvisioningError

from .deployment_run import DeploymentRun, StepReporter

_HINT = (
    "check the image's name and that the pool's identity has the role AcrPull, and that the "
    "container starts as root and answers on its port; then run the same command again"
)


async def ensure_watched(
    run: DeploymentRun, pool: Resource, ensure: Callable[[], Awaitable[Mapping[str, Any]]]
) -> None:
    """Create or change a custom pool, and stop waiting once it clearly cannot get ready.

    Args:
        run: The deployment.
        pool: The pool.
        ensure: Creates or changes it, and waits for Azure.

    Raises:
        ProvisioningError: Azure refused, or no container of the pool gets ready.
    """
    problems: list[str] = []
    failures: list[ProvisioningError] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_watch, run, pool, problems, group.cancel_scope)
        try:
            await ensure()
        except ProvisioningError as error:
            failures.append(error)
        group.cancel_scope.cancel()
    if problems:
        raise _build_error(pool, problems[-1])
    status = await read_template_status(run.arm, pool.id)
    if status is not None and status.problem is not None:
        raise _build_error(pool, status.problem) from next(iter(failures), None)
    if failures:
        raise failures[0]


async def _watch(
    run: DeploymentRun, pool: Resource, problems: list[str], scope: anyio.CancelScope
) -> None:
    """Cancel the wait when a problem lasts longer than a new role needs to be known."""
    reporter, since = StepReporter(run.report, pool.kind), None
    while True:
        await anyio.sleep(max(1.0, run.azure.polling.total_seconds()))
        status = await read_template_status(run.arm, pool.id)
        problem = None if status is None else status.problem
        if problem is None:
            since = None
            continue
        since = time.monotonic() if since is None else since
        if time.monotonic() - since > run.azure.settling.total_seconds():
            problems.append(problem)
            scope.cancel()
            return
        reporter.report_waiting(f"although {problem}")


def _build_error(pool: Resource, problem: str) -> ProvisioningError:
    return ProvisioningError(
        f"{pool.kind} {pool.name} does not get ready: {problem}",
        hint=_HINT,
        code="PoolNotReady",
        step=pool.kind,
    )
