"""Where `cci sessions` looks: a server of ours with its console, or a pool that lists sessions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import httpx
from pydantic import Field

from cci_plugins.azure.encryption import warn_of_plain_key
from cci_plugins.common.http_bodies import RUN_BYTES
from cci_plugins.common.settings import Settings
from cci_plugins.core.pool_choice import build_pool
from cci_plugins.errors import ConfigurationError, SessionLostError
from cci_plugins.mcp_client.bodies import read_body, read_error_body
from cci_plugins.mcp_client.client import parse_endpoint_url
from cci_plugins.mcp_client.executions import load_execution
from cci_plugins.mcp_client.failures import build_error_from_status
from cci_plugins.mcp_client.http import (
    ensure_closed,
    limit_time,
    make_http,
    map_protocol_errors,
    map_transport_errors,
)
from cci_plugins.mcp_client.messages import decode_json
from cci_plugins.mcp_client.wire_model import Text, Timestamp, TolerantModel
from cci_plugins.models import Execution, FileInfo, OutputEvent, Result, SessionInfo
from cci_plugins.pools.base import SessionPool

_TIMEOUT = timedelta(seconds=60)
_NO_ROUTE = {404, 405}
_TURN_ON = "start the server with: cci serve --console"


class ListedSession(TolerantModel):
    """A session as the console lists it."""

    identifier: Text
    may_live: bool = False
    created_at: Timestamp = None
    last_used_at: Timestamp = None
    expires_at: Timestamp = None
    ended_at: Timestamp = None
    runs: int | None = None
    is_busy: bool = False


class _SessionList(TolerantModel):
    pool: Text = ""
    lists_sessions: bool = False
    sessions: list[ListedSession]


class _ListedFile(TolerantModel):
    name: Text
    size: int = 0
    media_type: Text = ""
    modified_at: Timestamp = None


class _FileList(TolerantModel):
    files: list[_ListedFile]


class _Shown(TolerantModel):
    data: dict[str, Any]
    is_main: bool = False


class _Output(TolerantModel):
    stream: Literal["stdout", "stderr", "result"]
    text: Text = ""
    result: _Shown | None = None

    def build(self) -> OutputEvent:
        if self.stream != "result" or self.result is None:
            return OutputEvent(self.stream, self.text)
        return OutputEvent("result", result=Result(self.result.data, self.result.is_main))


class ConsoleRun(TolerantModel):
    """A run as the console reports it.

    Attributes:
        at: Position behind the output that came.
        output: Output from the position that was asked for.
    """

    number: int
    entry: Text = ""
    code: Text = ""
    status: Text = ""
    started_at: Timestamp = None
    ended_at: Timestamp = None
    error: Text = ""
    at: int = 0
    output: list[_Output] = Field(default_factory=list)
    execution: dict[str, Any] | None = None

    def load_execution(self) -> Execution | None:
        """Return the run's execution, or None without one.

        Raises:
            ProtocolError: It is malformed.
        """
        return None if self.execution is None else load_execution(self.execution, "")


class RunPage(TolerantModel):
    """Runs of a session, as many as one answer holds."""

    version: int
    ended_at: Timestamp = None
    dropped: int = 0
    runs: list[ConsoleRun]
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class SessionList:
    """Sessions of a target.

    Attributes:
        sessions: The sessions, the latest used first.
        has_history: Whether the target keeps what they ran.
        is_complete: Whether sessions of other programs are among them.
        pool: Short name of the pool.
    """

    sessions: list[ListedSession]
    has_history: bool
    is_complete: bool
    pool: str


class SessionsClient:
    """Sessions of a server of ours.

    Args:
        http: Client that sends the key.
        base: URL of the server, without a path.
    """

    def __init__(self, http: httpx.AsyncClient, base: str) -> None:
        self._http, self._base = http, base

    async def list_sessions(self) -> SessionList:
        """List the sessions that live, or that ran code on the server.

        Raises:
            ConfigurationError: The server's console is off.
        """
        answer = await self._request("GET", "sessions")
        if answer is None:
            raise self._build_off_error()
        listed = _SessionList.load(answer, "list of sessions")
        return SessionList(
            listed.sessions, has_history=True, is_complete=listed.lists_sessions, pool=listed.pool
        )

    async def list_files(self, identifier: str) -> list[FileInfo]:
        """List the files of a session."""
        answer = await self._request("GET", "files", identifier=identifier)
        if answer is None:
            raise self._build_off_error()
        files = _FileList.load(answer, "list of files").files
        return [FileInfo(one.name, one.size, one.media_type, one.modified_at) for one in files]

    async def end(self, identifier: str) -> None:
        """End a session.

        Raises:
            SessionLostError: It does not live.
        """
        if await self._request("DELETE", "session", identifier=identifier) is None:
            raise self._build_off_error()

    async def read_runs(
        self, identifier: str, first: int = 0, *, since: int = 0, version: int = 0, wait: int = 0
    ) -> RunPage:
        """Read runs.

        Args:
            identifier: The session.
            first: Number of the first run to read.
            since: Position of that run's output from which to read.
            version: Version of the session that is known.
            wait: Longest wait in seconds for another version.
        """
        query = {"from": first, "since": since, "version": version, "wait": wait}
        answer = await self._request("GET", "runs", identifier=identifier, **query)
        if answer is None:
            raise self._build_off_error()
        return RunPage.load(answer, "history of a session")

    async def _request(self, method: str, route: str, **query: str | int) -> Any:
        """Send a request, and return the answer's JSON. None if the server lacks the route."""
        url = httpx.URL(f"{self._base}/console/{route}", params=query)
        with map_transport_errors(starts_code=False), limit_time(_TIMEOUT, starts_code=False):
            response = await self._http.send(self._http.build_request(method, url), stream=True)
            async with ensure_closed(response):
                if response.is_success:
                    with map_protocol_errors(starts_code=False):
                        body = await read_body(response, RUN_BYTES)
                        return decode_json(body) if body else {}
                body = await read_error_body(response)
        status = response.status_code
        error = build_error_from_status(status, response.headers, body, starts_code=False)
        if isinstance(error, SessionLostError) or b"NoSessionFoundError" in body:
            identifier = query.get("identifier")
            raise build_unknown_error(str(identifier))
        if status in _NO_ROUTE:
            return None
        raise error

    def _build_off_error(self) -> ConfigurationError:
        return ConfigurationError(
            f"the server at {self._base} has no console that shows its sessions", hint=_TURN_ON
        )


class PoolClient:
    """Sessions of a pool of Azure, which keeps no history.

    Args:
        pool: The pool.
    """

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool

    async def list_sessions(self) -> SessionList:
        """List the sessions that live.

        Raises:
            ConfigurationError: The pool does not list them.
        """
        sessions = await self._pool.list_sessions()
        name = self._pool.capabilities.name
        if not self._pool.capabilities.lists_sessions:
            raise ConfigurationError(
                f"the pool {name!r} does not list its sessions",
                hint="put a gateway in front of it, and list what ran there: "
                "cci serve --pool NAME --console",
            )
        ordered = sorted(sessions, key=lambda one: one.last_accessed_at, reverse=True)
        return SessionList(
            [_convert(one) for one in ordered], has_history=False, is_complete=True, pool=name
        )

    async def list_files(self, identifier: str) -> list[FileInfo]:
        """List the files of a session."""
        await self._check_live(identifier)
        return await self._pool.list_files(identifier)

    async def end(self, identifier: str) -> None:
        """End a session."""
        await self._check_live(identifier)
        await self._pool.delete_session(identifier)

    async def read_runs(self, identifier: str, first: int = 0, **_: int) -> RunPage:
        """Refuse to read runs."""
        del identifier, first
        raise ConfigurationError(
            f"the pool {self._pool.capabilities.name!r} keeps no history of its runs",
            hint="put a gateway in front of it: cci serve --pool custom --console",
        )

    async def _check_live(self, identifier: str) -> None:
        listed = await self.list_sessions()
        if all(one.identifier != identifier for one in listed.sessions):
            raise build_unknown_error(identifier)


AnyClient = SessionsClient | PoolClient


def build_unknown_error(identifier: str) -> SessionLostError:
    """Build the error for a session that does not live."""
    return SessionLostError(
        f"the session {identifier!r:.200} has ended, or never existed",
        hint="list them: cci sessions list",
    )


@asynccontextmanager
async def open_client(server: str | None, key: str | None) -> AsyncGenerator[AnyClient]:
    """Open what the options or the settings name.

    Args:
        server: URL of a server of ours, or None for the settings.
        key: Its key, or None for the settings.

    Raises:
        ConfigurationError: Nothing is named whose sessions could be listed.
    """
    settings = Settings.read()
    endpoint = server or (settings.mcp_endpoint if settings.chosen_pool == "platform" else None)
    if endpoint is not None:
        chosen = key
        if key is None:
            chosen = _read_key(settings) if server is not None else settings.gateway_key
        url = parse_endpoint_url(endpoint)
        warn_of_plain_key(url)
        async with make_http() as http:
            if chosen is not None:
                http.headers["x-ms-apikey"] = chosen
            base = str(url.copy_with(path="/", query=None, fragment=None)).rstrip("/")
            yield SessionsClient(http, base)
        return
    if settings.chosen_pool == "custom":
        async with build_pool(settings) as pool:
            yield PoolClient(pool)
        return
    raise ConfigurationError(
        "no server is named whose sessions could be listed: those of the embedded pool belong to "
        "the program that started them",
        hint=f"{_TURN_ON}, and pass --server URL, or set AZURE_SESSION_POOL_MCP_ENDPOINT",
    )


def _read_key(settings: Settings) -> str | None:
    """Return the key for a server of the command line."""
    secret = settings.mcp_key or settings.serve_key
    return None if secret is None else secret.get_secret_value()


def _convert(session: SessionInfo) -> ListedSession:
    return ListedSession.model_construct(
        identifier=session.identifier,
        may_live=True,
        created_at=session.created_at,
        last_used_at=session.last_accessed_at,
        expires_at=session.expires_at,
        ended_at=None,
        runs=None,
        is_busy=False,
    )
