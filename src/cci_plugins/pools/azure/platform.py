"""Sessions behind a pool's managed MCP endpoint, with a key; also behind `cci serve`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any, Protocol

import anyio
from typing_extensions import override

from cci_plugins.errors import ConfigurationError, ProtocolError
from cci_plugins.limits import Limits
from cci_plugins.models import Execution, FileInfo, OutputEvent
from cci_plugins.pools.base import Capabilities, OutputHandler, SessionPool
from cci_plugins.wire import failures
from cci_plugins.wire.client import McpClient
from cci_plugins.wire.executions import INSTANCE_KEY, META_KEY, load_execution
from cci_plugins.wire.http import make_http
from cci_plugins.wire.messages import ToolResult

from .replies import read_execution
from .rest import RestClient

RUN_PYTHON = "runPythonCodeInRemoteEnvironment"
_RUN_PYTHON = re.compile(r"run_?python(_?code)?(_?in_?remote_?environment)?", re.IGNORECASE)
KEY_HEADER = "x-ms-apikey"
MARGIN = timedelta(seconds=15)


class Secret(Protocol):
    """A key that does not show itself, such as pydantic's `SecretStr`."""

    def get_secret_value(self) -> str:
        """The key."""
        ...


class PlatformSessionPool(SessionPool):
    """A session pool with the platform's MCP server switched on.

    Code travels by MCP, which a key opens. Files travel by the pool's REST API at the same
    address: `cci serve` takes the key there too, while Azure's own pools ask for a Microsoft
    Entra token (learn.microsoft.com, Container Apps MCP authentication).

    Args:
        endpoint: The MCP endpoint, ending in `/mcp`.
        key: The pool's key.
        limits: `file_bytes` bounds an upload.
        margin: Waited beyond a run's own limit for the answer.
    """

    capabilities = Capabilities(name="platform")

    def __init__(
        self,
        endpoint: str,
        *,
        key: str | Secret,
        limits: Limits | None = None,
        margin: timedelta = MARGIN,
    ) -> None:
        secret = key if isinstance(key, str) else key.get_secret_value()
        if not secret or not secret.isascii() or not secret.isprintable():
            raise ConfigurationError(
                "the pool's key has characters that no key has", hint="copy the key once more"
            )
        limits = Limits() if limits is None else limits
        endpoint = endpoint.rstrip("/")
        headers = {KEY_HEADER: secret}
        self._margin = margin
        self._http = make_http()
        self._mcp = McpClient(endpoint, headers=headers, http=self._http)
        self._rest = RestClient(
            endpoint.removesuffix("/mcp"),
            headers=headers,
            file_bytes=limits.file_bytes,
            http=self._http,
        )
        self._finding = anyio.Lock()
        self._tool: tuple[str, bool] | None = None

    def __repr__(self) -> str:
        return f"PlatformSessionPool({self._mcp!r})"

    @override
    async def start(self) -> None:
        """Shake hands and find the tool, so that a wrong key or address shows at once."""
        await self._run_tool()

    @override
    async def execute(
        self,
        session_id: str,
        code: str,
        *,
        timeout: timedelta,
        on_output: OutputHandler | None = None,
        instance: str | None = None,
    ) -> Execution:
        tool, takes_timeout = await self._run_tool()
        arguments: dict[str, Any] = {"environmentId": session_id, "pythonCode": code}
        if takes_timeout:
            arguments["timeoutSeconds"] = timeout.total_seconds()
        meta = {} if instance is None else {INSTANCE_KEY: instance}
        answer = await self._mcp.call_tool(
            tool, arguments, timeout=timeout + self._margin, meta=meta
        )
        execution = _execution(answer, session_id)
        if on_output is not None:
            _tell(execution, on_output)
        return execution

    @override
    async def upload(self, session_id: str, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        return await self._rest.upload(session_id, name, content)

    @override
    def download(self, session_id: str, name: str) -> AsyncIterator[bytes]:
        return self._rest.download(session_id, name)

    @override
    async def list_files(self, session_id: str) -> list[FileInfo]:
        return await self._rest.list_files(session_id)

    @override
    async def delete_file(self, session_id: str, name: str) -> None:
        await self._rest.delete_file(session_id, name)

    @override
    async def delete_session(self, session_id: str) -> None:
        await self._rest.delete_session(session_id)

    @override
    async def aclose(self) -> None:
        await self._mcp.aclose()
        await self._http.aclose()

    async def _run_tool(self) -> tuple[str, bool]:
        """The name of the tool that runs Python, and whether it takes a limit."""
        if self._tool is None:
            async with self._finding:
                if self._tool is None:
                    self._tool = _find(await self._mcp.list_tools())
        return self._tool


def _find(tools: list[Mapping[str, Any]]) -> tuple[str, bool]:
    """The tool that runs Python; its name has changed more than once."""
    names = {str(tool.get("name")): tool for tool in tools}
    fits = [name for name in names if _RUN_PYTHON.fullmatch(name)]
    name = RUN_PYTHON if RUN_PYTHON in names else next(iter(fits), None)
    if name is None:
        raise ProtocolError(
            f"the pool has no tool that runs Python, only {', '.join(sorted(names)) or 'none'}"[
                :500
            ],
            hint="use a pool of container type PythonLTS",
        )
    schema = names[name].get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return name, isinstance(properties, Mapping) and "timeoutSeconds" in properties


def _execution(answer: ToolResult, session_id: str) -> Execution:
    if META_KEY in answer.meta:
        return load_execution(answer.meta[META_KEY], session_id)
    failure = answer.meta.get(failures.META_KEY)
    if isinstance(failure, Mapping):
        raise failures.load_error(failure)
    return read_execution(answer, session_id)


def _tell(execution: Execution, on_output: OutputHandler) -> None:
    """Tell the output once it is there, as this pool does not stream."""
    if execution.stdout:
        on_output(OutputEvent("stdout", execution.stdout))
    if execution.stderr:
        on_output(OutputEvent("stderr", execution.stderr))
    for result in execution.results:
        on_output(OutputEvent("result", result=result))
