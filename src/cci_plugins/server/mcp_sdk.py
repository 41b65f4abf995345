"""The official MCP SDK's server; the one module that knows how its two majors differ.

1.x registers handlers that take the request and return a wrapped result; 2.x gets them in the
constructor, with a context and bare parameters (github.com/modelcontextprotocol/python-sdk,
docs/migration.md). No output schema is declared, since both would then validate every answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, cast

import mcp
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Receive, Scope, Send

from .mcp_tools import Answer, Tools
from .version import server_version

SERVER_NAME = "cci-plugins"
INSTRUCTIONS = (
    "Call launchShell once, and pass the environmentId it gives to every later call: variables "
    "and files live there. An environment that was not used for a while is lost."
)
BODY_BYTES = 4 * 1024**2
# What only one of the majors has is reached through Any: either may be installed.
_sdk: Any = mcp
_sdk_types: Any = types
_sdk_server: Any = Server
_MAJOR = int(version("mcp").partition(".")[0])


class McpEndpoint:
    """An ASGI application that answers MCP's streamable HTTP, without MCP sessions.

    Args:
        tools: What it offers.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._manager: StreamableHTTPSessionManager | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer requests for as long as this lasts."""
        manager = StreamableHTTPSessionManager(
            _make_server(self._tools), json_response=True, stateless=True
        )
        async with manager.run():
            self._manager = manager
            try:
                yield
            finally:
                self._manager = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._manager is None:
            raise RuntimeError("the application's lifespan has not begun")
        await self._manager.handle_request(scope, receive, send)


def _make_server(tools: Tools) -> Any:
    listed = types.ListToolsResult(
        tools=[types.Tool.model_validate(tool) for tool in tools.listed()]
    )
    options: dict[str, Any] = {"version": server_version(), "instructions": INSTRUCTIONS}
    if _MAJOR > 1:

        async def list_tools(_context: Any, _params: Any) -> Any:
            return listed

        async def call_tool(_context: Any, params: Any) -> Any:
            return await _call(tools, params)

        return _sdk_server(SERVER_NAME, on_list_tools=list_tools, on_call_tool=call_tool, **options)
    return _make_server_1(tools, listed, options)


def _make_server_1(tools: Tools, listed: Any, options: dict[str, Any]) -> Any:
    async def list_tools(_request: Any) -> Any:
        return _sdk_types.ServerResult(listed)

    async def call_tool(request: Any) -> Any:
        return _sdk_types.ServerResult(await _call(tools, request.params))

    server = _sdk_server(SERVER_NAME, **options)
    server.request_handlers[types.ListToolsRequest] = list_tools
    server.request_handlers[types.CallToolRequest] = call_tool
    return server


async def _call(tools: Tools, params: Any) -> types.CallToolResult:
    meta = params.model_dump(by_alias=True).get("_meta")
    answer = await tools.call(params.name, params.arguments or {}, meta or {})
    if answer is None:
        raise _unknown_tool(params.name)
    return _result(answer)


def _result(answer: Answer) -> types.CallToolResult:
    value: dict[str, Any] = {"content": answer.content, "isError": answer.is_error}
    if answer.structured is not None:
        value["structuredContent"] = answer.structured
    if answer.meta:
        value["_meta"] = answer.meta
    return types.CallToolResult.model_validate(value)


def _unknown_tool(name: str) -> Exception:
    """`Invalid params`, as the specification asks for a tool that there is not."""
    message = f"Unknown tool: {name[:100]}"
    if _MAJOR > 1:
        error = _sdk.MCPError(types.INVALID_PARAMS, message)
    else:
        error = _sdk.McpError(types.ErrorData(code=types.INVALID_PARAMS, message=message))
    return cast("Exception", error)
