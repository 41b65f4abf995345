"""Runs whose output and execution have no secrets, as every client gets them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cci_plugins.core.redacted_output import RedactingOutput, redact_execution, transform_in_lane
from cci_plugins.models import Execution
from cci_plugins.pools.base import OutputHandler

from .answers import sanitize_execution


async def run_redacted(
    execute: Callable[..., Awaitable[Execution]],
    on_output: OutputHandler | None,
    *,
    instance: str | None = None,
) -> Execution:
    """Run code, and return its execution without secrets, as it is sent to clients.

    Args:
        execute: `SessionPool.execute` with its session, code and time-out.
        on_output: Called with each chunk of output, without secrets.
        instance: The instance of the session that the code needs, or None.
    """
    output = None if on_output is None else RedactingOutput(on_output)
    try:
        execution = await execute(
            on_output=None if output is None else output.handle, instance=instance
        )
    finally:
        if output is not None:
            await output.finish()
    return await transform_in_lane(execution, lambda raw: sanitize_execution(redact_execution(raw)))
