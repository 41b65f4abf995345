"""Runs whose output and execution have no secrets, as every client gets them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cci_plugins.core.redacted_output import (
    SMALL_CHARACTERS,
    RedactingOutput,
    redact_execution,
    transform_in_lane,
)
from cci_plugins.models import Execution
from cci_plugins.pools.base import OutputHandler
from cci_plugins.redaction import redact

from .answers import sanitize_execution

_TEXT_KINDS = frozenset({"text/plain", "text/html", "text/markdown"})


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
    if _is_plain(execution):
        return execution
    return await transform_in_lane(execution, lambda raw: sanitize_execution(redact_execution(raw)))


def _is_plain(execution: Execution) -> bool:
    """Return whether an execution is a little ASCII text without secrets, as most are.

    Such an execution need not be copied. Anything else is, whether it has secrets or not.
    """
    if execution.tool_calls or not all(file.name.isascii() for file in execution.files):
        return False
    texts: list[object] = [execution.stdout, execution.stderr, *execution.notes]
    if (error := execution.error) is not None:
        texts += (error.name, error.message, error.traceback)
    for result in execution.results:
        if not result.data.keys() <= _TEXT_KINDS:
            return False
        texts += result.data.values()
    budget = SMALL_CHARACTERS
    for text in texts:
        if not isinstance(text, str) or not text.isascii() or len(text) > budget:
            return False
        budget -= len(text)
    return all(redact(str(text)) == text for text in texts if text)
