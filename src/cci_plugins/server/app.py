"""The ASGI application: every route, and the guard before them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from cci_plugins.common.limits import Limits
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.base import SessionPool

from .disconnect import CancelOnDisconnect
from .guard import Guard
from .mcp.environments import Environments
from .mcp.execute_code import ExecuteCodeTools, ToolProvider
from .mcp.gate import McpCompatApp
from .mcp.resources import FileResources
from .mcp.sdk import BODY_BYTES, McpEndpoint
from .mcp.sessions import McpSessions
from .mcp.tools import PlatformTools
from .rest.errors import HANDLERS
from .rest.executions import ExecutionRoutes
from .rest.files import FileRoutes
from .rest.sessions import SessionRoutes
from .throttle import Throttle

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def create_app(
    pool: SessionPool,
    *,
    api_key: str | None,
    limits: Limits | None = None,
    hosts: Iterable[str] | None = LOOPBACK,
    environments: Environments | None = None,
    rest: bool = True,
    execute_code: bool = False,
    file_links: bool = False,
    requests_per_minute: int | None = None,
    body_bytes: int = BODY_BYTES,
) -> Starlette:
    """Serve a pool: `/mcp`, the REST data plane beside it, and `/health`.

    The pool is the caller's: started and closed there.

    Args:
        pool: Where code runs.
        api_key: What clients must send as `x-ms-apikey`, or on the REST side as a bearer token;
            None lets everyone in.
        limits: The longest run, the largest upload, and how much a model may read.
        hosts: Names by which a request may call this server, with or without a port, against
            DNS rebinding; None allows every name.
        environments: Which environment ids are given and taken; None takes any, as session
            pools do.
        rest: Serve the REST data plane too. Its routes take any session identifier, so they
            cannot stand beside signed environments.
        friendly: Offer what session pools of Azure do not: MCP sessions, each with a session of
            the pool, `execute_code` in it, and its files as resources.
        file_links: Link the files that a run wrote in the answer of `execute_code`.
        requests_per_minute: Most requests of one key, or without a key of one address; None
            sets no limit. `/health` does not count.
        body_bytes: Longest body of a request, but for uploads, which `limits` bounds.

    Raises:
        ConfigurationError: `rest` is asked for beside signed environments.
    """
    if rest:
        _check_rest_allowed(environments)
    limits = limits or Limits()
    tools: ToolProvider = PlatformTools(pool, limits, environments)
    mcp_sessions = McpSessions(pool, limits) if execute_code else None
    if mcp_sessions is not None:
        tools = ExecuteCodeTools(tools, mcp_sessions, file_links=file_links)
    resources = None if mcp_sessions is None else FileResources(mcp_sessions)
    mcp = McpEndpoint(tools, body_bytes, resources)
    executions = ExecutionRoutes(pool, limits, body_bytes)
    mcp_routes = [
        Route(path, McpCompatApp(mcp, body_bytes, mcp_sessions)) for path in ("/mcp", "/mcp/")
    ]
    data_plane = (
        *executions.build_routes(),
        *FileRoutes(pool, limits).build_routes(),
        *SessionRoutes(pool).build_routes(),
    )
    app = Starlette(
        routes=[Route("/health", _get_health), *mcp_routes, *(data_plane if rest else ())],
        exception_handlers=HANDLERS,
        middleware=[*_build_middleware(api_key, hosts, requests_per_minute)],
        lifespan=_make_lifespan(executions, mcp, mcp_sessions),
    )
    app.router.redirect_slashes = False  # a redirected client loses its body or its key
    return app


def _check_rest_allowed(environments: Environments | None) -> None:
    if environments is not None and not environments.accepts_any_id:
        raise ConfigurationError(
            "the REST routes take any session identifier, signed environments do not",
            hint="pass rest=False",
        )


def _make_lifespan(
    executions: ExecutionRoutes, mcp: McpEndpoint, mcp_sessions: McpSessions | None
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with executions.run(), mcp.run():
            try:
                yield
            finally:
                if mcp_sessions is not None:
                    await mcp_sessions.aclose()

    return lifespan


def _build_middleware(
    api_key: str | None, hosts: Iterable[str] | None, requests_per_minute: int | None
) -> Iterator[Middleware]:
    """What stands before the routes, the first one outermost."""
    yield Middleware(Guard, api_key=api_key, hosts=None if hosts is None else tuple(hosts))
    if requests_per_minute is not None:  # behind the guard, so that it counts keys that are right
        by_key = api_key is not None
        yield Middleware(Throttle, requests_per_minute=requests_per_minute, by_key=by_key)
    yield Middleware(CancelOnDisconnect)


async def _get_health(_: Request) -> PlainTextResponse:
    """The session image's own answer, so that its probes work with this server too."""
    return PlainTextResponse('"healthy"')
