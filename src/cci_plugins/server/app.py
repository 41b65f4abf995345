"""The ASGI application: every route, and the guard before them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from cci_plugins.limits import Limits
from cci_plugins.pools.base import SessionPool

from .disconnect import CancelOnDisconnect
from .guard import Guard
from .mcp_gate import McpGate
from .mcp_sdk import McpEndpoint
from .mcp_tools import Tools
from .rest_errors import HANDLERS
from .rest_executions import Executions
from .rest_files import Files
from .rest_sessions import Sessions

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def create_app(
    pool: SessionPool,
    *,
    api_key: str | None,
    limits: Limits | None = None,
    hosts: Iterable[str] | None = LOOPBACK,
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
    """
    limits = Limits() if limits is None else limits
    mcp = McpEndpoint(Tools(pool, limits))
    executions = Executions(pool, limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with executions.running(), mcp.running():
            yield

    app = Starlette(
        routes=[
            Route("/health", _health),
            *(Route(path, McpGate(mcp)) for path in ("/mcp", "/mcp/")),
            *executions.routes(),
            *Files(pool, limits).routes(),
            *Sessions(pool).routes(),
        ],
        exception_handlers=HANDLERS,
        middleware=[
            Middleware(Guard, api_key=api_key, hosts=None if hosts is None else tuple(hosts)),
            Middleware(CancelOnDisconnect),
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirected client loses its body or its key
    return app


async def _health(_: Request) -> PlainTextResponse:
    """The session image's own answer, so that its probes work with this server too."""
    return PlainTextResponse('"healthy"')
