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
from .mcp.execute_code import FriendlyTools, Offer
from .mcp.gate import McpGate
from .mcp.resources import Resources
from .mcp.sdk import BODY_BYTES, McpEndpoint
from .mcp.sessions import Conversations
from .mcp.tools import Tools
from .rest.errors import HANDLERS
from .rest.executions import Executions
from .rest.files import Files
from .rest.sessions import Sessions
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
    friendly: bool = False,
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
        _check_open(environments)
    limits = limits or Limits()
    tools: Offer = Tools(pool, limits, environments)
    conversations = Conversations(pool, limits) if friendly else None
    if conversations is not None:
        tools = FriendlyTools(tools, conversations, links=file_links)
    resources = None if conversations is None else Resources(conversations)
    mcp = McpEndpoint(tools, body_bytes, resources)
    executions = Executions(pool, limits, body_bytes)
    gates = [Route(path, McpGate(mcp, body_bytes, conversations)) for path in ("/mcp", "/mcp/")]
    data_plane = (*executions.routes(), *Files(pool, limits).routes(), *Sessions(pool).routes())
    app = Starlette(
        routes=[Route("/health", _health), *gates, *(data_plane if rest else ())],
        exception_handlers=HANDLERS,
        middleware=[*_doorkeepers(api_key, hosts, requests_per_minute)],
        lifespan=_lifespan(executions, mcp, conversations),
    )
    app.router.redirect_slashes = False  # a redirected client loses its body or its key
    return app


def _check_open(environments: Environments | None) -> None:
    if environments is not None and not environments.takes_any:
        raise ConfigurationError(
            "the REST routes take any session identifier, signed environments do not",
            hint="pass rest=False",
        )


def _lifespan(
    executions: Executions, mcp: McpEndpoint, conversations: Conversations | None
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with executions.running(), mcp.running():
            try:
                yield
            finally:
                if conversations is not None:
                    await conversations.aclose()

    return lifespan


def _doorkeepers(
    api_key: str | None, hosts: Iterable[str] | None, requests_per_minute: int | None
) -> Iterator[Middleware]:
    """What stands before the routes, the first one outermost."""
    yield Middleware(Guard, api_key=api_key, hosts=None if hosts is None else tuple(hosts))
    if requests_per_minute is not None:  # behind the guard, so that it counts keys that are right
        by_key = api_key is not None
        yield Middleware(Throttle, requests_per_minute=requests_per_minute, by_key=by_key)
    yield Middleware(CancelOnDisconnect)


async def _health(_: Request) -> PlainTextResponse:
    """The session image's own answer, so that its probes work with this server too."""
    return PlainTextResponse('"healthy"')
