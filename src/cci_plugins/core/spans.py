"""OpenTelemetry spans of executions. Without a configured SDK they do nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING

from cci_plugins.models import Execution, ToolCall
from cci_plugins.redaction import redact

if TYPE_CHECKING:
    from opentelemetry.trace import Span

MAX_CONTENT = 50_000  # characters of the arguments, or of the result, of one host tool


@contextmanager
def start_execution_span(session_id: str, pool: str) -> Generator[Span]:
    """Trace one execution as an `execute_tool` span of the GenAI conventions.

    The span has a hash of the session's identifier. It has no code and no output unless
    `record_content` is called (opentelemetry.io/docs/specs/semconv/gen-ai).

    Args:
        session_id: The session's identifier in its pool.
        pool: The name of the pool.
    """
    from opentelemetry import trace

    tracer = trace.get_tracer("cci_plugins")
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "execute_code",
        "gen_ai.tool.type": "function",
        "cci.pool": pool,
        "cci.session.hash": hashlib.sha256(session_id.encode()).hexdigest()[:16],
    }
    with tracer.start_as_current_span("execute_tool execute_code", attributes=attributes) as span:
        yield span


@contextmanager
def start_tool_span(name: str, call_id: str) -> Generator[Span]:
    """Trace one call of a host tool, below the span of the execution.

    Args:
        name: The tool.
        call_id: Number of the call in its run.
    """
    from opentelemetry import trace

    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": call_id,
    }
    tracer = trace.get_tracer("cci_plugins")
    with tracer.start_as_current_span(
        f"execute_tool {name}",
        attributes=attributes,
        record_exception=False,  # its text may have a secret
        set_status_on_exception=False,
    ) as span:
        yield span


def record_tool_call(span: Span, call: ToolCall) -> None:
    """Record how a call of a host tool ended, without arguments and result."""
    span.set_attributes(
        {"cci.tool_call.status": call.status, "cci.tool_call.result_bytes": call.result_bytes}
    )
    if call.status != "succeeded":
        span.set_attribute("error.type", call.status)


def record_tool_content(span: Span, arguments: str, result: str) -> None:
    """Record the arguments and the result of a host tool as JSON, with secrets redacted."""
    span.set_attributes(
        {
            "gen_ai.tool.call.arguments": redact(arguments[: 2 * MAX_CONTENT])[:MAX_CONTENT],
            "gen_ai.tool.call.result": redact(result[: 2 * MAX_CONTENT])[:MAX_CONTENT],
        }
    )


def inherit_span(context: Context) -> None:
    """Make the current span that of another context too, so that spans there are below it."""
    from opentelemetry import context as trace_context

    context.run(trace_context.attach, trace_context.get_current())


def record_execution(span: Span, execution: Execution) -> None:
    """Record the status and the sizes of a run on its span, never its content."""
    span.set_attributes(
        {
            "cci.execution.status": execution.status,
            "cci.session.state": execution.state,
            "cci.output.characters": len(execution.stdout) + len(execution.stderr),
            "cci.output.dropped_characters": execution.dropped_characters,
            "cci.output.results": len(execution.results),
            "cci.output.files": len(execution.files),
            "cci.tool_calls": len(execution.tool_calls),
        }
    )
    if execution.error is not None:
        span.set_attribute("error.type", redact(execution.error.name))


def record_content(span: Span, code: str, result: str) -> None:
    """Record the code of a run and the text that a model reads, with secrets redacted.

    Args:
        span: The span of the execution.
        code: The code that ran.
        result: The rendered execution.
    """
    span.set_attributes(
        {
            "gen_ai.tool.call.arguments": json.dumps({"code": redact(code)}),
            "gen_ai.tool.call.result": redact(result),
        }
    )
