"""The ASGI application: middleware, routes and lifespan.

A request passes `Guard` (host and key), then `Throttle` (rate), then `CancelOnDisconnect`, and
reaches one of three kinds of routes: `/mcp`, the REST data plane, or `/health`. All of them call
the same pool on the event loop that serves the application.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from cci_plugins.common.durations import Duration
from cci_plugins.common.environment import Env, build_session_environment
from cci_plugins.common.limits import Limits
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.base import SessionPool

from .console import ConsoleRoutes
from .console_page.gate import ConsoleGate
from .console_page.routes import ConsolePage
from .disconnect import CancelOnDisconnect
from .guard import Guard, RunRate, Throttle
from .history import RunHistory
from .mcp.compat import McpCompatApp
from .mcp.environments import Environments
from .mcp.execute_code import ExecuteCodeTools, ToolProvider
from .mcp.held_runs import describe_held_runs
from .mcp.resources import FileResources
from .mcp.sdk import BODY_BYTES, McpEndpoint
from .mcp.sessions import McpSessions
from .mcp.tools import PlatformTools
from .recording import record_runs
from .rest.errors import HANDLERS
from .rest.executions import ExecutionRoutes
from .rest.files import FileRoutes
from .rest.sessions import SessionRoutes
from .runs import RunRegistry
from .sign_in import EntraSignIn

_Lifespan: TypeAlias = Callable[[Starlette], AbstractAsyncContextManager[None]]
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
    runs_per_minute: int | None = None,
    body_bytes: int = BODY_BYTES,
    sign_in: EntraSignIn | None = None,
    wait: Duration | None = None,
    env: Env | None = None,
    console: bool = False,
) -> Starlette:
    """Build an application that serves a pool as `/mcp`, the REST data plane and `/health`.

    Args:
        pool: Where code runs. The caller starts and closes it.
        api_key: Key that clients send as `x-ms-apikey`, or to REST as a bearer token.
        limits: The longest run, the largest upload, and how much a model may read.
        hosts: Host names that requests may use, against DNS rebinding. None allows every name.
        environments: Issues and checks environment ids. None accepts any id, as Azure does.
        rest: Serve the REST data plane too, which signed environments exclude.
        execute_code: Offer the tool `execute_code` too, with the session's files as resources.
        file_links: Link the files that a run wrote in the answer of `execute_code`.
        requests_per_minute: Most requests of one key, or without a key of one address.
        runs_per_minute: Most runs of one environment over MCP.
        body_bytes: Longest body of a request. Uploads are bounded by `limits` instead.
        sign_in: Accepts tokens of Microsoft Entra, and the key.
        wait: Longest time until a run over MCP is answered for, as in `ToolOptions`.
        env: Variables for the code in every session that is reached over MCP, or None.
        console: Keep what each session ran, in memory, and show it to holders of the key.

    Raises:
        ConfigurationError: Options exclude each other, or `env` has an invalid variable.

    Example:
        ```python
        from cci_plugins.testing import FakeSessionPool

        app = create_app(FakeSessionPool(), api_key="a long random key")  # for any ASGI server
        ```
    """
    _check_options(environments, sign_in, api_key=api_key, rest=rest, console=console)
    limits, runs = limits or Limits(), RunRegistry()
    options = _McpOptions(
        environments, runs_per_minute, body_bytes, execute_code, file_links, env, wait
    )
    entry = _EntryPools(pool, api_key if console else None)
    mcp, sessions = _build_mcp_endpoint(entry, limits, runs, options)
    mcp_app = McpCompatApp(mcp, body_bytes, sessions)
    rest_routes = _build_rest_routes(entry.rest, limits, body_bytes, runs) if rest else ()
    routes = [Route("/health", _get_health), *_build_mcp_routes(mcp_app), *rest_routes]
    routes += entry.build_console_routes()
    middleware = [*_build_middleware(api_key, hosts, requests_per_minute, sign_in, entry.gate)]
    return _assemble(routes, middleware, _make_lifespan(runs, mcp, sessions))


def _assemble(routes: list[Route], middleware: list[Middleware], lifespan: _Lifespan) -> Starlette:
    app = Starlette(
        routes=routes, exception_handlers=HANDLERS, middleware=middleware, lifespan=lifespan
    )
    app.router.redirect_slashes = False  # a redirected client loses its body or its key
    return app


class _EntryPools:
    """The pool of each entry point, which records its runs if the server has a console.

    Attributes:
        gate: Who may see the console's page. None without a console.

    Args:
        pool: The pool of all of them.
        console_key: The key that opens the console, or None for a server without one.
    """

    def __init__(self, pool: SessionPool, console_key: str | None) -> None:
        self.rest = self.mcp = self.execute_code = pool
        self.gate: ConsoleGate | None = None
        if console_key is not None:
            self._history = RunHistory()
            self.gate = ConsoleGate(console_key)
            self.rest = record_runs(pool, self._history, "rest")
            self.mcp = record_runs(pool, self._history, "mcp")
            self.execute_code = record_runs(pool, self._history, "execute_code")

    def build_console_routes(self) -> Iterator[Route]:
        """Return the routes of the console, if there is one."""
        if self.gate is not None:
            yield from ConsoleRoutes(self.rest, self._history).build_routes()
            yield from ConsolePage(self.rest, self._history, self.gate).build_routes()


@dataclass(frozen=True, slots=True)
class _McpOptions:
    """The options of `create_app` that are about MCP."""

    environments: Environments | None
    runs_per_minute: int | None
    body_bytes: int
    execute_code: bool
    file_links: bool
    env: Env | None
    wait: Duration | None


def _build_mcp_endpoint(
    entry: _EntryPools, limits: Limits, runs: RunRegistry, options: _McpOptions
) -> tuple[McpEndpoint, McpSessions | None]:
    """Build the MCP endpoint, with `execute_code` where the server keeps MCP sessions."""
    env = build_session_environment(options.env) if options.env else None
    tools: ToolProvider = PlatformTools(
        entry.mcp,
        limits,
        options.environments,
        admit_run=None
        if options.runs_per_minute is None
        else RunRate(options.runs_per_minute).admit,
        runs=runs,
        env=env,
        wait=options.wait,
    )
    sessions = resources = None
    if options.execute_code:
        sessions = McpSessions(
            entry.execute_code, limits, environments=options.environments, env=env
        )
        resources = FileResources(sessions)
        tools = ExecuteCodeTools(tools, sessions, file_links=options.file_links, wait=options.wait)
    endpoint = McpEndpoint(
        tools, options.body_bytes, resources, experimental=lambda: describe_held_runs(entry.mcp)
    )
    return endpoint, sessions


def _check_options(
    environments: Environments | None,
    sign_in: EntraSignIn | None,
    *,
    api_key: str | None,
    rest: bool,
    console: bool,
) -> None:
    if console and api_key is None:
        raise ConfigurationError(
            "a console needs a key, since it shows the sessions of everybody",
            hint="pass api_key, or drop console",
        )
    is_open = environments is None or environments.accepts_any_id
    if rest and not is_open:
        raise ConfigurationError(
            "the REST routes accept any session identifier, but signed environments do not",
            hint="pass rest=False",
        )
    if sign_in is not None and api_key is None:
        raise ConfigurationError(
            "a server without a key asks nobody to sign in", hint="pass api_key, or drop sign_in"
        )
    if sign_in is not None and is_open:
        raise ConfigurationError(
            "only signed environments belong to the caller that launched them",
            hint="pass environments=SignedEnvironments(secret)",
        )


def _build_mcp_routes(app: McpCompatApp) -> Iterator[Route]:
    yield Route("/mcp", app)
    yield Route("/mcp/", app)


def _build_rest_routes(
    pool: SessionPool, limits: Limits, body_bytes: int, runs: RunRegistry
) -> Iterator[Route]:
    yield from ExecutionRoutes(pool, limits, body_bytes, runs).build_routes()
    yield from FileRoutes(pool, limits).build_routes()
    yield from SessionRoutes(pool).build_routes()


def _build_middleware(
    api_key: str | None,
    hosts: Iterable[str] | None,
    requests_per_minute: int | None,
    sign_in: EntraSignIn | None,
    gate: ConsoleGate | None,
) -> Iterator[Middleware]:
    """Build the middleware, outermost first."""
    names = None if hosts is None else tuple(hosts)
    yield Middleware(Guard, api_key=api_key, hosts=names, sign_in=sign_in, gate=gate)
    if requests_per_minute is not None:  # after the guard, so that only valid keys are counted
        by_key = api_key is not None
        yield Middleware(Throttle, requests_per_minute=requests_per_minute, by_key=by_key)
    yield Middleware(CancelOnDisconnect)


def _make_lifespan(runs: RunRegistry, mcp: McpEndpoint, sessions: McpSessions | None) -> _Lifespan:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with runs.run(), mcp.run():
            try:
                yield
            finally:
                if sessions is not None:
                    await sessions.aclose()

    return lifespan


async def _get_health(_: Request) -> PlainTextResponse:
    """Answer as Azure's session image does, so that its probes work here too."""
    return PlainTextResponse('"healthy"')
