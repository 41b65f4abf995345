"""The official MCP SDK's server, and the differences between its two major versions.

1.x registers handlers that take the request and return a wrapped result. 2.x gets them in the
constructor, with a context and bare parameters (github.com/modelcontextprotocol/python-sdk,
docs/migration.md). No output schema is declared, because both would then validate every answer.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from typing import Any, cast

import anyio
import mcp
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Receive, Scope, Send

from cci_plugins.common.log import logger
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.mcp_client.executions import CONTENT_KEY, META_KEY
from cci_plugins.mcp_client.progress import PROGRESS_METHOD
from cci_plugins.redaction import redact
from cci_plugins.server.answers import sanitize_json
from cci_plugins.server.disconnect import get_run_scope, run_with_cancel_scope
from cci_plugins.server.rest.errors import SERVER_FAULT

from .answers import ToolCallResult
from .direct_calls import DirectCall, build_result_fields, send_error, send_result
from .execute_code import ToolProvider
from .large_answers import LargeAnswers, large_answers
from .progress import Notify, report_progress
from .resources import ENVIRONMENT_PREFIX, PREFIX, FileResources, ResourceError
from .running import RunningCalls
from .sessions import is_stateless, mcp_session_id

SERVER_NAME = "cci-plugins"
INSTRUCTIONS = (
    "Call launchShell once, and pass the environmentId it gives to every later call: variables "
    "and files live there. An environment that was not used for a while is lost."
)
EXECUTE_CODE_INSTRUCTIONS = (
    "Call execute_code to run Python: variables and files stay for as long as this connection. "
    "The session's files are resources. The other tools are for separate environments: "
) + INSTRUCTIONS
STATELESS_INSTRUCTIONS = (
    "Call execute_code to run Python. The answer of the first call has an environmentId. Pass it "
    "to every later call, because variables and files live there. An environment that was not "
    "used for a while is lost."
)
_CANCELLED = "Request cancelled"
REQUEST_CANCELLED = -32800  # of 2.x, where streamable HTTP keeps sessions
BODY_BYTES = 4 * 1024**2
_CLIENT_DISCONNECTED = ToolCallResult([{"type": "text", "text": "The client left."}], is_error=True)
# Either major may be installed, so names that only one of them has are reached through Any.
_sdk: Any = mcp
_sdk_types: Any = types
_sdk_server: Any = Server
_MAJOR = int(version("mcp").partition(".")[0])
_RPC_ERROR: Any = _sdk.MCPError if _MAJOR > 1 else _sdk.McpError


def is_stateless_version(protocol: str | None) -> bool:
    """Return whether a request is of the stateless revision of MCP, and the SDK speaks it.

    A version that nobody knows is one too, because the SDK then answers with those it speaks.

    Args:
        protocol: The request's header `MCP-Protocol-Version`.
    """
    return _MAJOR > 1 and protocol is not None and protocol not in _get_handshake_versions()


def admits_direct_calls(protocol: str | None) -> bool:
    """Return whether plain calls may be answered without the SDK, for a client of a handshake.

    The SDK's 2.x traces each request, so it answers where traces are recorded.

    Args:
        protocol: The request's header `MCP-Protocol-Version`.
    """
    if protocol is not None and protocol not in _get_handshake_versions():
        return False
    if _MAJOR == 1:
        return True
    trace: Any = import_module("opentelemetry.trace")
    idle = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
    return isinstance(trace.get_tracer_provider(), idle)


@cache
def _get_handshake_versions() -> frozenset[str]:
    """Return the versions of MCP that begin with a handshake, and that the SDK speaks."""
    if _MAJOR == 1:
        known: Any = import_module("mcp.shared.version")
        return frozenset(known.SUPPORTED_PROTOCOL_VERSIONS)
    known = import_module("mcp_types.version")
    return frozenset(known.HANDSHAKE_PROTOCOL_VERSIONS)


class McpEndpoint:
    """ASGI application that answers MCP's streamable HTTP, without MCP sessions.

    Args:
        tools: The tools that it offers.
        body_bytes: Longest body of a request.
        resources: The files that it offers, or None.
        experimental: Returns the experimental capabilities that the handshake lists.

    Attributes:
        running: The calls in progress, which clients may cancel.
    """

    def __init__(
        self,
        tools: ToolProvider,
        body_bytes: int = BODY_BYTES,
        resources: FileResources | None = None,
        *,
        experimental: Callable[[], dict[str, dict[str, Any]]] = dict,
    ) -> None:
        self._tools = tools
        self._experimental = experimental
        self._resources = resources
        self._body_bytes = body_bytes
        self.running = RunningCalls()
        self._managers: dict[tuple[bool, bool], StreamableHTTPSessionManager] = {}

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Answer requests inside this block."""
        async with AsyncExitStack() as stack:
            for streams, stateless in product((False, True), (False, True)):
                server = make_server(
                    self._tools,
                    self._resources,
                    streams=streams,
                    stateless=stateless,
                    running=self.running,
                )
                _add_experimental(server, self._experimental)
                manager = _make_manager(server, self._body_bytes, streams=streams)
                await stack.enter_async_context(manager.run())
                self._managers[streams, stateless] = manager
            try:
                yield
            finally:
                self._managers.clear()

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        streams: bool = False,
        stateless: bool = False,
    ) -> None:
        """Answer one request.

        Args:
            scope: ASGI's scope.
            receive: Reads the request.
            send: Sends the answer.
            streams: Answer by server-sent events, with progress before the reply. Otherwise
                answer by one JSON body.
            stateless: The request is of the stateless revision.
        """
        if not self._managers:
            raise RuntimeError("the application's lifespan has not started")
        manager = self._managers[streams, stateless]
        answers = LargeAnswers()
        send = answers.wrap(send)
        token = large_answers.set(answers)
        try:
            await run_with_cancel_scope(lambda: manager.handle_request(scope, receive, send))
        finally:
            large_answers.reset(token)

    async def answer_directly(self, call: DirectCall, send: Send) -> bool:
        """Answer a plain call by one JSON body, without the SDK.

        Returns:
            Whether it was answered. The SDK answers for a tool that does not exist.
        """
        answer: ToolCallResult | None = None
        scope = anyio.CancelScope()
        try:
            with self.running.track(mcp_session_id.get(), call.request_id, scope), scope:
                answer = await self._tools.call(call.name, call.arguments, call.meta)
        except Exception as error:  # noqa: BLE001 - a fault must not break the protocol
            await send_error(call, types.INTERNAL_ERROR, _describe_fault(error), send)
            return True
        if scope.cancelled_caught:
            await send_error(call, REQUEST_CANCELLED, _CANCELLED, send)
            return True
        if answer is not None:
            await send_result(call, _select_parts(answer, call.meta), send)
        return answer is not None


def _make_manager(server: Any, body_bytes: int, *, streams: bool) -> StreamableHTTPSessionManager:
    known = inspect.signature(StreamableHTTPSessionManager).parameters
    bound: dict[str, Any] = (
        {"max_request_body_size": body_bytes} if "max_request_body_size" in known else {}
    )
    return StreamableHTTPSessionManager(server, json_response=not streams, stateless=True, **bound)


def make_server(
    tools: ToolProvider,
    resources: FileResources | None,
    *,
    streams: bool,
    stateless: bool = False,
    running: RunningCalls | None = None,
) -> Any:
    """Build the SDK's server, of whichever major version is installed.

    Args:
        tools: The tools that it offers.
        resources: The files that it offers, or None.
        streams: Report the progress of a call when a client asks for it.
        stateless: Describe it to clients of the stateless revision.
        running: Where calls in progress are kept, or None where the SDK cancels them.
    """
    with_execute_code = STATELESS_INSTRUCTIONS if stateless else EXECUTE_CODE_INSTRUCTIONS
    options: dict[str, Any] = {
        "version": _get_version(),
        "instructions": INSTRUCTIONS if resources is None else with_execute_code,
    }
    running = RunningCalls() if running is None else running
    if _MAJOR > 1:
        return _make_server_2(tools, resources, running, options, streams=streams)
    return _make_server_1(tools, resources, running, options, streams=streams)


def _add_experimental(server: Any, experimental: Callable[[], dict[str, dict[str, Any]]]) -> None:
    """Add experimental capabilities to the options that the SDK takes for each handshake."""
    create = server.create_initialization_options
    server.create_initialization_options = lambda: create(experimental_capabilities=experimental())


@cache
def _get_version() -> str:
    """Return this package's version, or `0` in a source tree that was never installed."""
    try:
        return version("cci-plugins")
    except PackageNotFoundError:
        return "0"


def _make_server_2(
    tools: ToolProvider,
    resources: FileResources | None,
    running: RunningCalls,
    options: dict[str, Any],
    *,
    streams: bool,
) -> Any:
    async def list_tools(_context: Any, _params: Any) -> Any:
        return _build_tools_result(tools)

    async def call_tool(context: Any, params: Any) -> Any:
        token = (context.meta or {}).get("progress_token")
        notify = _build_notifier(context, token) if streams else None
        return await _call(tools, params, notify, running, context.request_id)

    if resources is not None:
        handlers = _build_resource_handlers(resources)
        for name, answer in handlers.items():
            options[f"on_{name}"] = _adapt_handler_2(answer)
    return _sdk_server(SERVER_NAME, on_list_tools=list_tools, on_call_tool=call_tool, **options)


def _make_server_1(
    tools: ToolProvider,
    resources: FileResources | None,
    running: RunningCalls,
    options: dict[str, Any],
    *,
    streams: bool,
) -> Any:
    server = _sdk_server(SERVER_NAME, **options)

    async def list_tools(_request: Any) -> Any:
        return _sdk_types.ServerResult(_build_tools_result(tools))

    async def call_tool(request: Any) -> Any:
        context = server.request_context
        token = None if context.meta is None else context.meta.progressToken
        notify = _build_notifier(context, token) if streams else None
        answer = await _call(tools, request.params, notify, running, context.request_id)
        return _sdk_types.ServerResult(answer)

    server.request_handlers[types.ListToolsRequest] = list_tools
    server.request_handlers[types.CallToolRequest] = call_tool
    if resources is not None:
        handlers = _build_resource_handlers(resources)
        for name, kind in (
            ("list_resources", types.ListResourcesRequest),
            ("list_resource_templates", types.ListResourceTemplatesRequest),
            ("read_resource", types.ReadResourceRequest),
        ):
            server.request_handlers[kind] = _adapt_handler_1(handlers[name])
    return server


def _build_tools_result(tools: ToolProvider) -> types.ListToolsResult:
    return types.ListToolsResult(
        tools=[types.Tool.model_validate(tool) for tool in tools.list_tools()]
    )


_Handler = Callable[[Any], Awaitable[Any]]


def _adapt_handler_2(answer: _Handler) -> Callable[[Any, Any], Awaitable[Any]]:
    """Return a handler with the signature of 2.x."""
    return lambda _context, params: answer(params)


def _adapt_handler_1(answer: _Handler) -> _Handler:
    """Return a handler with the signature of 1.x."""

    async def handle(request: Any) -> Any:
        return _sdk_types.ServerResult(await answer(request.params))

    return handle


def _build_resource_handlers(resources: FileResources) -> dict[str, _Handler]:
    """Return a handler for each request about resources. It takes the request's parameters."""

    async def list_resources(_params: Any) -> Any:
        with _convert_resource_errors():
            files = await resources.list_resources()
        return types.ListResourcesResult.model_validate({"resources": files})

    async def list_templates(_params: Any) -> Any:
        prefix = ENVIRONMENT_PREFIX if is_stateless.get() else PREFIX
        template = {"uriTemplate": prefix + "{+name}", "name": "A file of the session"}
        return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": [template]})

    async def read(params: Any) -> Any:
        with _convert_resource_errors():
            content = await resources.read(str(params.uri))
        if (token := await _keep_large({"contents": [content]})) is not None:
            content = {"uri": content["uri"], "text": token}
        return types.ReadResourceResult.model_validate({"contents": [content]})

    return {
        "list_resources": list_resources,
        "list_resource_templates": list_templates,
        "read_resource": read,
    }


def _build_notifier(context: Any, token: str | int | None) -> Notify | None:
    """Return what sends progress on the request's stream, or None if nobody asked for it."""
    if token is None:
        return None

    async def notify(params: dict[str, Any]) -> None:
        note: Any = types.ProgressNotification.model_validate(
            {"method": PROGRESS_METHOD, "params": {"progressToken": token} | params}
        )
        if _MAJOR == 1:
            note = _sdk_types.ServerNotification(note)
        await context.session.send_notification(note, context.request_id)

    return notify


async def _call(
    tools: ToolProvider,
    params: Any,
    notify: Notify | None,
    running: RunningCalls,
    request_id: object,
) -> types.CallToolResult:
    meta = params.model_dump(by_alias=True).get("_meta") or {}
    answer: ToolCallResult | None = _CLIENT_DISCONNECTED
    scope = anyio.CancelScope()
    with (
        running.track(mcp_session_id.get(), request_id, scope),
        scope,
        get_run_scope(),
        _hide_faults(),
    ):
        if notify is None:
            answer = await tools.call(params.name, params.arguments or {}, meta)
        else:
            async with report_progress(notify) as on_output:
                answer = await tools.call(params.name, params.arguments or {}, meta, on_output)
    if scope.cancelled_caught:
        raise _build_rpc_error(_CANCELLED, REQUEST_CANCELLED)
    if answer is None:
        raise _build_unknown_tool_error(params.name)
    return await _to_call_tool_result(_select_parts(answer, meta))


def _select_parts(answer: ToolCallResult, meta: Mapping[str, Any]) -> ToolCallResult:
    """Return the result, without content if the client reads the execution in `_meta` only."""
    if meta.get(CONTENT_KEY) is False and META_KEY in answer.meta:
        return ToolCallResult([], is_error=answer.is_error, meta=answer.meta)
    return answer


async def _to_call_tool_result(answer: ToolCallResult) -> types.CallToolResult:
    value = build_result_fields(answer)
    if (token := await _keep_large(value)) is not None:
        value = {"content": [{"type": "text", "text": token}]}
    return types.CallToolResult.model_validate(value | {"isError": answer.is_error})


async def _keep_large(fields: dict[str, Any]) -> str | None:
    """Return what stands for the fields of a large result, or None if the SDK encodes them."""
    answers = large_answers.get()
    return None if answers is None else await answers.keep(fields)


@contextmanager
def _convert_resource_errors() -> Generator[None]:
    with _hide_faults():
        try:
            yield
        except ResourceError as error:
            raise _build_rpc_error(redact(str(error))) from error


@contextmanager
def _hide_faults() -> Generator[None]:
    """Turn what a tool or resource raises into an error without its text.

    Both majors of the SDK send the text of any other exception, with the code 0.
    """
    try:
        yield
    except Exception as caught:  # noqa: BLE001 - whatever a tool raises
        error = caught
        while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]  # the task group that reports progress
        if isinstance(error, _RPC_ERROR):
            raise error from None
        raise _build_rpc_error(_describe_fault(error), types.INTERNAL_ERROR) from error


def _describe_fault(error: Exception) -> str:
    """Log what a tool raised, and return the text for the client."""
    logger.error("a tool failed because of a fault in the server", exc_info=error)
    return redact(str(error)) if isinstance(error, CodeInterpreterError) else SERVER_FAULT


def _build_unknown_tool_error(name: str) -> Exception:
    """Return `Invalid params`, which the specification demands for an unknown tool."""
    return _build_rpc_error(f"Unknown tool: {name[:100]}")


def _build_rpc_error(message: str, code: int = types.INVALID_PARAMS) -> Exception:
    message = sanitize_json(message)
    given = (code, message) if _MAJOR > 1 else (types.ErrorData(code=code, message=message),)
    return cast("Exception", _RPC_ERROR(*given))
