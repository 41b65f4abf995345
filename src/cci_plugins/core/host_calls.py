"""The answers to the tool calls of one run: `HostCalls`.

Whatever the code sends arrives here, and the code can forge all of it. The steps have a fixed
order, and the first that fails decides the answer:

1. Count the call, and its bytes.
2. Find the tool by its name.
3. Decode the arguments and check them against the schema.
4. Ask the approver, if the tool needs that. An exception counts as a denial.
5. Run the tool where the caller is (`caller.py`).
6. Encode the result, within its bounds.

Steps 4 and 5 share one time limit. Only a `ToolCallError` leaves here, and cancellation. Its text
is for the code, so it has no traceback of the host, and secrets are redacted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, NoReturn

import anyio
import anyio.to_thread

from cci_plugins.common.approval import Decision
from cci_plugins.common.limits import Limits
from cci_plugins.common.log import describe_error, logger
from cci_plugins.common.settings import is_content_capture_enabled
from cci_plugins.errors import ToolCallError, ToolErrorKind
from cci_plugins.models import ToolCall, ToolCallStatus
from cci_plugins.pools.tool_host import ToolBounds, ToolHost, WaitClock
from cci_plugins.redaction import redact

from .caller import Caller
from .host_tools import HostTool, ToolApprover, ToolCallRequest
from .spans import record_tool_call, record_tool_content, start_tool_span
from .tool_results import encode_result, measure
from .tool_schema import find_errors
from .tool_signatures import build_spec

MAX_RECORDED_BYTES = 64 * 1024  # of the arguments of one call
_INLINE_BYTES = 64 * 1024  # more JSON than this is handled in a thread
_MAX_TEXT = 4_000  # characters of an error
_MAX_NAME = 100
MAX_DEPTH = 100  # of the arguments
_STATUSES: dict[ToolErrorKind, ToolCallStatus] = {
    "failed": "failed",
    "invalid": "rejected",
    "limit": "rejected",
    "denied": "denied",
    "timeout": "timed_out",
}


class HostCalls(ToolHost):
    """Answers the tool calls of one run, and records them.

    Create it where the caller is: it captures the event loop and the context variables. The tools
    run there, whatever loop the pool is on.

    Args:
        tools: The tools of this run, as `check_tools` returned them.
        limits: Bounds of the interpreter.
        code: The code that runs.
        session_key: Key of its conversation.
        session_id: Identifier of its session.
        approve_tool: Asked before a call that needs approval.

    Attributes:
        records: The calls so far, in the order in which they began. One in progress is
            `cancelled`.
    """

    def __init__(
        self,
        tools: Sequence[HostTool],
        limits: Limits,
        *,
        code: str,
        session_key: str,
        session_id: str,
        approve_tool: ToolApprover | None = None,
    ) -> None:
        self.specs = tuple(build_spec(tool) for tool in tools)
        self.bounds = ToolBounds.from_limits(limits)
        self.records: list[ToolCall] = []
        self._tools = {tool.name: tool for tool in tools}
        self._code, self._session_key, self._approve_tool = code, session_key, approve_tool
        self._caller = Caller(session_id, self.bounds.at_once)
        self._wait = WaitClock(self.bounds.wait.total_seconds())
        self._bytes = 0

    def end(self) -> None:
        """Note that the run has ended. Its session may be used by what its tools left running."""
        self._caller.end()

    async def call(self, name: str, arguments: str) -> str:
        """Answer one call: check it, ask for approval, run the tool and return its result."""
        index, started, result = len(self.records), time.perf_counter(), ""
        call = ToolCall(name[:_MAX_NAME], status="cancelled")
        self.records.append(call)
        has_run = False
        known_name = name if name in self._tools else "unknown"
        with start_tool_span(known_name, str(index + 1)) as span:
            self._wait.begin()
            try:
                size = self._count(arguments)
                call = self.records[index] = replace(call, argument_bytes=size)
                tool = self._find_tool(name)
                values = await self._decode(tool, arguments)
                if size <= MAX_RECORDED_BYTES:
                    call = self.records[index] = replace(call, arguments=values)
                value = await self._run_in_time(tool, values)
                has_run = True
                result = await self._encode(value)
                call = replace(call, status="succeeded", result_bytes=len(result.encode()))
            except ToolCallError as error:
                status = "failed" if has_run else _STATUSES[error.kind]
                call = replace(call, status=status, error=str(error))
                raise
            else:
                return result
            finally:
                self._wait.end()
                duration = timedelta(seconds=time.perf_counter() - started)
                call = self.records[index] = replace(call, duration=duration)
                record_tool_call(span, call)
                if is_content_capture_enabled():
                    record_tool_content(span, arguments, result)

    def _count(self, arguments: str) -> int:
        """Count the call and its bytes, and return the bytes."""
        if len(self.records) > self.bounds.calls:
            raise ToolCallError(
                f"this run has made its {self.bounds.calls:,} calls of tools", kind="limit"
            )
        size = len(arguments.encode("utf-8", "surrogatepass"))
        if size > self.bounds.call_bytes:
            raise ToolCallError(
                f"the arguments have {size:,} bytes, and a call may have "
                f"{self.bounds.call_bytes:,}",
                kind="limit",
            )
        self._add_bytes(size)
        return size

    def _add_bytes(self, size: int) -> None:
        if self._bytes + size > self.bounds.total_bytes:
            raise ToolCallError(
                "the arguments and results of this run's calls have more than "
                f"{self.bounds.total_bytes:,} bytes together",
                kind="limit",
            )
        self._bytes += size

    def _find_tool(self, name: str) -> HostTool:
        tool = self._tools.get(name)
        if tool is None:
            names = ", ".join(self._tools)[:_MAX_TEXT]
            raise ToolCallError(
                f"no tool is called {name[:_MAX_NAME]!r}; the tools are {names}", kind="invalid"
            )
        return tool

    async def _decode(self, tool: HostTool, arguments: str) -> dict[str, Any]:
        """Decode the arguments and check them. Large ones are handled in a thread."""
        if len(arguments) > _INLINE_BYTES:
            return await anyio.to_thread.run_sync(
                _decode_arguments, tool, arguments, abandon_on_cancel=True
            )
        return _decode_arguments(tool, arguments)

    async def _run_in_time(self, tool: HostTool, arguments: dict[str, Any]) -> Any:
        limit = min(self.bounds.call_timeout.total_seconds(), self._wait.remaining)
        if limit > 0:
            with anyio.move_on_after(limit):
                if await self._needs_approval(tool, arguments):
                    await self._approve(tool, arguments)
                return await self._run(tool, arguments)
        if limit < self.bounds.call_timeout.total_seconds():
            text = f"this run has waited {self.bounds.wait.total_seconds():g} s for tools in all"
        else:
            text = f"the tool did not return within {limit:g} s"
        raise ToolCallError(text, kind="timeout")

    async def _needs_approval(self, tool: HostTool, arguments: dict[str, Any]) -> bool:
        rule = tool.needs_approval
        if not callable(rule):
            return bool(rule)
        try:
            return bool(await self._caller.call(rule, arguments))
        except ToolCallError:
            raise
        except Exception:  # noqa: BLE001 - the application's own code
            logger.exception("the approval rule of the tool %r failed", tool.name)
            return True

    async def _approve(self, tool: HostTool, arguments: dict[str, Any]) -> None:
        request = ToolCallRequest(tool.name, arguments, self._code, self._session_key)
        decision = Decision("deny", reason="nobody could be asked")
        if self._approve_tool is not None:
            try:
                decision = await self._caller.call(self._approve_tool, request)
            except Exception:  # noqa: BLE001 - the application's own code
                logger.exception("the approver of host tools failed")
        if decision.verdict != "allow":
            reason = f": {redact(decision.reason)}" if decision.reason else ""
            raise ToolCallError(
                f"the user did not approve the call of {tool.name}{reason}", kind="denied"
            )

    async def _run(self, tool: HostTool, arguments: dict[str, Any]) -> Any:
        try:
            return await self._caller.call(tool.call, **arguments)
        except ToolCallError as error:
            _refuse(describe_error(error), error.kind)
        except Exception as error:  # noqa: BLE001 - the application's own code
            logger.info("the host tool %r raised %s", tool.name, type(error).__name__)
            logger.debug("the host tool %r failed", tool.name, exc_info=error)
            _refuse(f"{type(error).__name__}: {error}", "failed")

    async def _encode(self, value: Any) -> str:
        limit = self.bounds.call_bytes
        if measure(value, _INLINE_BYTES) > _INLINE_BYTES:
            result = await anyio.to_thread.run_sync(
                encode_result, value, limit, abandon_on_cancel=True
            )
        else:
            result = encode_result(value, limit)
        self._add_bytes(len(result.encode()))
        return result


def _refuse(text: str, kind: ToolErrorKind) -> NoReturn:
    """Raise an error for the code, without secrets and without the host's exception behind it."""
    text = redact(text.encode("utf-8", "backslashreplace").decode())
    raise ToolCallError(text[:_MAX_TEXT], kind=kind) from None


def _decode_arguments(tool: HostTool, text: str) -> dict[str, Any]:
    """Decode JSON that the code of a session sent, and check it against the tool's schema."""
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
        # no lone surrogate, and no number such as 1e999
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ToolCallError(
            f"the arguments of {tool.name} are invalid JSON: {reason[:_MAX_NAME]}", kind="invalid"
        ) from None
    if not isinstance(values, dict):
        raise ToolCallError(f"the arguments of {tool.name} are not an object", kind="invalid")
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(values):
        raise ToolCallError(f"the arguments of {tool.name} are nested too deeply", kind="invalid")
    try:
        errors = find_errors(tool.parameters_schema, values)
    except Exception as error:  # noqa: BLE001 - such as a schema at another address
        logger.warning("the schema of the tool %r cannot be used: %s", tool.name, error)
        raise ToolCallError(f"the schema of {tool.name} cannot be used") from None
    if errors:
        text = "; ".join(errors).encode("utf-8", "backslashreplace").decode()
        raise ToolCallError(f"{tool.name}: {text}"[:_MAX_TEXT], kind="invalid")
    return values


def _is_too_deep(values: object) -> bool:
    """Return whether JSON is nested so deeply that a function could fail to walk through it."""
    level = [values]
    for _ in range(MAX_DEPTH):
        inner = [one for one in level if isinstance(one, dict | list)]
        level = [item for one in inner for item in (one.values() if isinstance(one, dict) else one)]
    return bool(level)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
