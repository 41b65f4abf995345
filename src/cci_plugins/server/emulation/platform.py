"""The MCP server of a managed pool, as its tutorials and users describe it.

It does not use the SDK, which is stricter than Azure's server in some places and laxer in others
(learn.microsoft.com, Container Apps sessions, Python and shell MCP tutorials).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

from starlette.responses import JSONResponse, Response

from cci_plugins.common.limits import Limits
from cci_plugins.in_session.shell_expression import build_shell_code
from cci_plugins.mcp_client.failures import BAD_IDENTIFIER
from cci_plugins.pools.base import SessionPool
from cci_plugins.server.answers import (
    build_run_fields,
    get_main_value,
    sanitize_execution,
    sanitize_json,
)
from cci_plugins.server.mcp.tools import RUN_PYTHON, RUN_SHELL
from cci_plugins.server.requests import check_identifier

from .faults import cut_bytes
from .options import Emulation

MAX_TIMEOUT = timedelta(seconds=220)
_NO_LIMIT = 10**9
_STRING_SCHEMA = {"type": "string"}


class JsonRpcError(Exception):
    """A JSON-RPC error to answer with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class PlatformMcp:
    """The MCP endpoint, which answers one JSON-RPC message at a time.

    Args:
        pool: Where code runs.
        emulation: Names and bounds.
        allocate_session: Allocates a session, or raises when the pool is full.
        limits: `execution_timeout` is the longest run.
    """

    def __init__(
        self,
        pool: SessionPool,
        emulation: Emulation,
        allocate_session: Callable[[str], Awaitable[None]],
        limits: Limits,
    ) -> None:
        self._pool = pool
        self._emulation = emulation
        self._allocate_session = allocate_session
        self._timeout = min(limits.execution_timeout, MAX_TIMEOUT)
        self._launched_ids: set[str] = set()

    def forget(self, identifier: str) -> None:
        """Remove an environment from those that were launched."""
        self._launched_ids.discard(identifier)

    async def answer(self, body: bytes) -> Response:
        """Answer a request or a notification."""
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            return _build_error(None, JsonRpcError(-32700, "Parse error"))
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            return _build_error(None, JsonRpcError(-32600, "Invalid Request"))
        if "id" not in message:
            return Response(status_code=202)
        given = message.get("params", {})
        try:
            result = await self._dispatch(message.get("method"), given)
        except JsonRpcError as fault:
            return _build_error(message["id"], fault)
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        return JSONResponse(sanitize_json(answer))

    async def _dispatch(self, method: object, params: object) -> dict[str, Any]:
        if not isinstance(params, Mapping):
            raise JsonRpcError(-32602, "params must be an object")
        if method == "initialize":
            return {
                "protocolVersion": "2025-03-26",
                "serverInfo": {"name": "Microsoft Container Apps MCP Server", "version": "1.0.0"},
                "capabilities": {"tools": {"call": True, "list": True}},
            }
        if method == "tools/list":
            return {"tools": self._list_tools()}
        if method == "tools/call":
            return await self._call(params.get("name"), params.get("arguments", {}))
        raise JsonRpcError(-32601, "Method not found")

    async def _call(self, name: object, arguments: object) -> dict[str, Any]:
        tool = next((tool for tool in self._list_tools() if tool["name"] == name), None)
        if tool is None:
            raise JsonRpcError(-32602, f"Unknown tool: {name}")
        if not isinstance(arguments, Mapping):
            raise JsonRpcError(-32602, "arguments must be an object")
        schema = tool["inputSchema"]
        unknown = set(arguments) - set(schema["properties"])
        missing = set(schema["required"]) - set(arguments)
        if unknown or missing:
            raise JsonRpcError(-32602, f"Unknown {sorted(unknown)}, missing {sorted(missing)}")
        if name == self._emulation.launch_tool:
            self._launched_ids.add(identifier := str(uuid4()))
            return _build_result({"environmentId": identifier})
        code = arguments.get("pythonCode")
        if name == RUN_SHELL:
            command = arguments.get("shellCommand", arguments.get("execCommandAndArgs"))
            code = build_shell_code(command) if isinstance(command, (str, list)) else None
        if not isinstance(code, str):
            raise JsonRpcError(-32602, "The arguments have no code or command to run.")
        return await self._run(arguments["environmentId"], code, is_shell=name == RUN_SHELL)

    async def _run(self, identifier: object, code: str, *, is_shell: bool) -> dict[str, Any]:
        if (problem := check_identifier(identifier)) is not None:
            raise JsonRpcError(-32602, f"{BAD_IDENTIFIER}: {problem}")
        strict = self._emulation.unknown_environments == "error"
        if strict and identifier not in self._launched_ids:
            raise JsonRpcError(-32000, f"Environment not found: {identifier}")
        await self._allocate_session(str(identifier))
        execution = sanitize_execution(
            await self._pool.execute(str(identifier), code, timeout=self._timeout)
        )
        fields = build_run_fields(execution, _NO_LIMIT, get_main_value(execution))
        limit = self._emulation.output_characters
        for name in ("stdout", "stderr"):
            fields[name] = cut_bytes(fields[name], limit) if is_shell else fields[name][:limit]
        return _build_result(fields)

    def _list_tools(self) -> list[dict[str, Any]]:
        return [
            _build_tool(self._emulation.launch_tool, {}),
            _build_tool(
                RUN_PYTHON, {"environmentId": _STRING_SCHEMA, "pythonCode": _STRING_SCHEMA}
            ),
            _build_tool(
                RUN_SHELL,
                {
                    "environmentId": _STRING_SCHEMA,
                    "shellCommand": _STRING_SCHEMA,
                    "execCommandAndArgs": {"type": "array", "items": _STRING_SCHEMA},
                },
                optional=("shellCommand", "execCommandAndArgs"),
            ),
        ]


def _build_tool(
    name: str, properties: dict[str, Any], optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    required = [key for key in properties if key not in optional]
    schema = {"type": "object", "properties": properties, "required": required}
    return {"name": name, "description": name, "inputSchema": schema}


def _build_result(fields: dict[str, Any]) -> dict[str, Any]:
    content = [{"type": "text", "text": json.dumps(fields)}]
    return {"content": content, "structuredContent": fields, "isError": False}


def _build_error(request_id: object, fault: JsonRpcError) -> Response:
    error = {"code": fault.code, "message": str(fault)}
    return JSONResponse(sanitize_json({"jsonrpc": "2.0", "id": request_id, "error": error}))
