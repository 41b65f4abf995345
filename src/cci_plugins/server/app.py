"""The ASGI application: every route, and the guard before them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from cci_plugins.errors import ConfigurationError
from cci_plugins.limits import Limits
from cci_plugins.pools.base import SessionPool

from .disconnect import CancelOnDisconnect
from .environments import Environments
from .guard import Guard
from .mcp_gate import McpGate
from .mcp_sdk import BODY_BYTES, McpEndpoint
from .mcp_tools import Tools
from .rest_errors import HANDLERS
from .rest_executions import Executions
from .rest_files import Files
from .rest_sessions import Sessions
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
        requests_per_minute: Most requests of one key, or without a key of one address; None
            sets no limit. `/health` does not count.
        body_bytes: Longest body of a request, but for uploads, which `limits` bounds.

    Raises:
        ConfigurationError: `rest` is asked for beside signed environments.
    """
    _check(environments, rest=rest)
    limits = Limits() if limits is None else limits
    mcp = McpEndpoint(Tools(pool, limits, environments), body_bytes)
    executions = Executions(pool, limits, body_bytes)
    gate = McpGate(mcp, body_bytes)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with executions.running(), mcp.running():
            yield

    routes = [Route("/health", _health), Route("/mcp", gate), Route("/mcp/", gate)]
    if rest:
        routes += [*executions.routes(), *Files(pool, limits).routes(), *Sessions(pool).routes()]
    app = Starlette(
        routes=routes,
        exception_handlers=HANDLERS,
        middleware=_middleware(api_key, hosts, requests_per_minute),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirected client loses its body or its key
    return app


def _check(environments: Environments | None, *, rest: bool) -> None:
    if rest and environments is not None and not environments.takes_any:
        raise ConfigurationError(
            "the REST routes take any session identifier, signed environments do not",
            hint="pass rest=False",
        )


def _middleware(
    api_key: str | None, hosts: Iterable[str] | None, requests_per_minute: int | None
) -> list[Middleware]:
    """What a request passes, outermost first; the rate counts what the guard let through."""
    guard = Middleware(Guard, api_key=api_key, hosts=None if hosts is None else tuple(hosts))
    cancel = Middleware(CancelOnDisconnect)
    if requests_per_minute is None:
        return [guard, cancel]
    by_key = api_key is not None
    throttle = Middleware(Throttle, requests_per_minute=requests_per_minute, by_key=by_key)
    return [guard, throttle, cancel]


async def _health(_: Request) -> PlainTextResponse:
    """The session image's own answer, so that its probes work with this server too."""
    return PlainTextResponse('"healthy"')
