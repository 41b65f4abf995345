"""The official MCP SDK's server; the one module that knows how its two majors differ.

1.x registers handlers that take the request and return a wrapped result; 2.x gets them in the
constructor, with a context and bare parameters (github.com/modelcontextprotocol/python-sdk,
docs/migration.md). No output schema is declared, since both would then validate every answer.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import Any, cast

import mcp
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Receive, Scope, Send

from cci_plugins.mcp_client.progress import PROGRESS_METHOD
from cci_plugins.server.disconnect import get_run_scope, run_with_cancel_scope
from cci_plugins.server.version import get_server_version

from .execute_code import ToolProvider
from .progress import Notify, report_progress
from .resources import PREFIX, FileResources, ResourceError
from .tools import ToolCallResult

SERVER_NAME = "cci-plugins"
INSTRUCTIONS = (
    "Call launchShell once, and pass the environmentId it gives to every later call: variables "
    "and files live there. An environment that was not used for a while is lost."
)
EXECUTE_CODE_INSTRUCTIONS = (
    "Call execute_code to run Python: variables and files stay for as long as this connection. "
    "The session's files are resources. The other tools are for environments beside this one: "
) + INSTRUCTIONS
BODY_BYTES = 4 * 1024**2
_CLIENT_DISCONNECTED = ToolCallResult([{"type": "text", "text": "The client left."}], is_error=True)
# What only one of the majors has is reached through Any: either may be installed.
_sdk: Any = mcp
_sdk_types: Any = types
_sdk_server: Any = Server
_MAJOR = int(version("mcp").partition(".")[0])


class McpEndpoint:
    """An ASGI application that answers MCP's streamable HTTP, without MCP sessions.

    Args:
        tools: What it offers.
        body_bytes: Longest body of a request.
        resources: Files that it offers.
    """

    def __init__(
        self,
        tools: ToolProvider,
        body_bytes: int = BODY_BYTES,
        resources: FileResources | None = None,
    ) -> None:
        self._tools = tools
        self._resources = resources
        self._body_bytes = body_bytes
        self._managers: dict[bool, StreamableHTTPSessionManager] = {}

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Answer requests for as long as this lasts."""
        async with AsyncExitStack() as stack:
            for streams in (False, True):
                server = make_server(self._tools, self._resources, streams=streams)
                manager = _make_manager(server, self._body_bytes, streams=streams)
                await stack.enter_async_context(manager.run())
                self._managers[streams] = manager
            try:
                yield
            finally:
                self._managers.clear()

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, *, streams: bool = False
    ) -> None:
        """Answer one request.

        Args:
            scope: Of ASGI, as the others.
            receive: The request.
            send: The answer.
            streams: Answer by server-sent events, with progress before the reply; else by JSON.
        """
        if streams not in self._managers:
            raise RuntimeError("the application's lifespan has not begun")
        manager = self._managers[streams]
        await run_with_cancel_scope(lambda: manager.handle_request(scope, receive, send))


def _make_manager(server: Any, body_bytes: int, *, streams: bool) -> StreamableHTTPSessionManager:
    known = inspect.signature(StreamableHTTPSessionManager).parameters
    bound: dict[str, Any] = (
        {"max_request_body_size": body_bytes} if "max_request_body_size" in known else {}
    )
    return StreamableHTTPSessionManager(server, json_response=not streams, stateless=True, **bound)


def make_server(tools: ToolProvider, resources: FileResources | None, *, streams: bool) -> Any:
    """The SDK's server, of either major.

    Args:
        tools: What it offers.
        resources: Files that it offers.
        streams: Whether it tells the progress of a call, when a client asks for it.
    """
    options: dict[str, Any] = {
        "version": get_server_version(),
        "instructions": INSTRUCTIONS if resources is None else EXECUTE_CODE_INSTRUCTIONS,
    }
    if _MAJOR > 1:
        return _make_server_2(tools, resources, options, streams=streams)
    return _make_server_1(tools, resources, options, streams=streams)


def _make_server_2(
    tools: ToolProvider, resources: FileResources | None, options: dict[str, Any], *, streams: bool
) -> Any:
    async def list_tools(_context: Any, _params: Any) -> Any:
        return _build_tools_result(tools)

    async def call_tool(context: Any, params: Any) -> Any:
        token = (context.meta or {}).get("progress_token")
        return await _call(tools, params, _build_notifier(context, token) if streams else None)

    if resources is not None:
        handlers = _build_resource_handlers(resources)
        for name, answer in handlers.items():
            options[f"on_{name}"] = _adapt_handler_2(answer)
    return _sdk_server(SERVER_NAME, on_list_tools=list_tools, on_call_tool=call_tool, **options)


def _make_server_1(
    tools: ToolProvider, resources: FileResources | None, options: dict[str, Any], *, streams: bool
) -> Any:
    server = _sdk_server(SERVER_NAME, **options)

    async def list_tools(_request: Any) -> Any:
        return _sdk_types.ServerResult(_build_tools_result(tools))

    async def call_tool(request: Any) -> Any:
        context = server.request_context
        token = None if context.meta is None else context.meta.progressToken
        notify = _build_notifier(context, token) if streams else None
        return _sdk_types.ServerResult(await _call(tools, request.params, notify))

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
    """As 2.x calls it."""
    return lambda _context, params: answer(params)


def _adapt_handler_1(answer: _Handler) -> _Handler:
    """As 1.x calls it."""

    async def handle(request: Any) -> Any:
        return _sdk_types.ServerResult(await answer(request.params))

    return handle


def _build_resource_handlers(resources: FileResources) -> dict[str, _Handler]:
    """What answers each request for resources, from its parameters."""

    async def list_resources(_params: Any) -> Any:
        with _convert_resource_errors():
            list_resources = await resources.list_resources()
        return types.ListResourcesResult.model_validate({"resources": list_resources})

    async def list_templates(_params: Any) -> Any:
        template = {"uriTemplate": PREFIX + "{+name}", "name": "A file of the session"}
        return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": [template]})

    async def read(params: Any) -> Any:
        with _convert_resource_errors():
            content = await resources.read(str(params.uri))
        return types.ReadResourceResult.model_validate({"contents": [content]})

    return {
        "list_resources": list_resources,
        "list_resource_templates": list_templates,
        "read_resource": read,
    }


def _build_notifier(context: Any, token: str | int | None) -> Notify | None:
    """Sends progress on the stream of the request that a context belongs to."""
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


async def _call(tools: ToolProvider, params: Any, notify: Notify | None) -> types.CallToolResult:
    meta = params.model_dump(by_alias=True).get("_meta") or {}
    answer: ToolCallResult | None = _CLIENT_DISCONNECTED
    with get_run_scope():
        if notify is None:
            answer = await tools.call(params.name, params.arguments or {}, meta)
        else:
            async with report_progress(notify) as on_output:
                answer = await tools.call(params.name, params.arguments or {}, meta, on_output)
    if answer is None:
        raise _build_unknown_tool_error(params.name)
    return _to_call_tool_result(answer)


def _to_call_tool_result(answer: ToolCallResult) -> types.CallToolResult:
    value: dict[str, Any] = {"content": answer.content, "isError": answer.is_error}
    if answer.structured is not None:
        value["structuredContent"] = answer.structured
    if answer.meta:
        value["_meta"] = answer.meta
    return types.CallToolResult.model_validate(value)


@contextmanager
def _convert_resource_errors() -> Generator[None]:
    try:
        yield
    except ResourceError as error:
        raise _build_rpc_error(str(error)) from error


def _build_unknown_tool_error(name: str) -> Exception:
    """`Invalid params`, as the specification asks for a tool that there is not."""
    return _build_rpc_error(f"Unknown tool: {name[:100]}")


def _build_rpc_error(message: str) -> Exception:
    if _MAJOR > 1:
        error = _sdk.MCPError(types.INVALID_PARAMS, message)
    else:
        error = _sdk.McpError(types.ErrorData(code=types.INVALID_PARAMS, message=message))
    return cast("Exception", error)
