"""The HTTP server: a listening socket, and uvicorn on it until the task is cancelled.

It installs no signal handlers, so it runs in any thread. A command that ends at Ctrl-C cancels the
task itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, cast

import anyio
import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from cci_plugins.common.durations import Duration
from cci_plugins.common.environment import Env
from cci_plugins.common.limits import Limits
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.base import SessionPool

from .app import LOOPBACK, create_app
from .connections import Connections
from .mcp.environments import Environments
from .mcp.sdk import BODY_BYTES
from .refused_accepts import report_refused_accepts
from .sign_in import EntraSignIn

_BACKLOG = 512
_GRACE_SECONDS = 3
_KEEP_ALIVE_SECONDS = 75  # longer than clients keep a connection


async def serve(
    pool: SessionPool,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    api_key: str | None,
    on_ready: Callable[[str], None] | None = None,
    limits: Limits | None = None,
    allowed_hosts: tuple[str, ...] = (),
    environments: Environments | None = None,
    rest: bool = True,
    execute_code: bool = False,
    file_links: bool = False,
    requests_per_minute: int | None = None,
    runs_per_minute: int | None = None,
    body_bytes: int = BODY_BYTES,
    trusted_proxies: Sequence[str] = (),
    sign_in: EntraSignIn | None = None,
    wait: Duration | None = None,
    env: Env | None = None,
    console: bool = False,
) -> None:
    """Serve a pool over HTTP until cancelled. Then give running requests a moment to end.

    Args:
        pool: Where code runs. The caller starts and closes it.
        host: Address to listen on.
        port: Port to listen on. 0 chooses a free port.
        api_key: Key that clients must send. None admits every client.
        on_ready: Called with the URL of the MCP endpoint when it answers.
        limits: The longest run, the largest upload, and how much a model may read.
        allowed_hosts: More names that requests may use, on a loopback address.
        environments: Issues and checks environment ids. None accepts any id.
        rest: Serve the REST data plane too, which signed environments exclude.
        execute_code: Offer `execute_code` too.
        file_links: Link files that a run wrote.
        requests_per_minute: Most requests of one key, or without a key of one address.
        runs_per_minute: Most runs of one environment over MCP.
        body_bytes: Longest body of a request. Uploads are bounded by `limits` instead.
        trusted_proxies: Addresses and networks of proxies whose `X-Forwarded-For` is believed.
        sign_in: Accepts tokens of Microsoft Entra, and the key.
        wait: Longest time until a run over MCP is answered for, as for `create_app`.
        env: Variables for the code in every session that is reached over MCP, or None.
        console: Keep what each session ran, and show it to holders of the key.

    Raises:
        ConfigurationError: The address is taken, or options exclude each other.

    Example:
        ```python
        with anyio.move_on_after(0.1):
            await serve(LocalSessionPool(), port=0, api_key="a long random key", on_ready=print)
        ```
    """
    names = (*LOOPBACK, host, *allowed_hosts) if is_loopback(host) else None
    make = partial(create_app, pool, api_key=api_key, limits=limits, hosts=names, sign_in=sign_in)
    make = partial(make, environments=environments, rest=rest, body_bytes=body_bytes, wait=wait)
    make = partial(make, execute_code=execute_code, file_links=file_links, env=env, console=console)
    app = make(requests_per_minute=requests_per_minute, runs_per_minute=runs_per_minute)
    await serve_app(app, host=host, port=port, on_ready=on_ready, trusted_proxies=trusted_proxies)


async def serve_app(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    on_ready: Callable[[str], None] | None = None,
    trusted_proxies: Sequence[str] = (),
) -> None:
    """Serve an application over HTTP until cancelled, as `serve` does.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on. 0 chooses a free port.
        on_ready: Called with the URL of the MCP endpoint when the server answers requests.
        trusted_proxies: Addresses and networks of proxies whose `X-Forwarded-For` is believed.

    Raises:
        ConfigurationError: The address is not available.
    """
    if trusted_proxies:
        app = _trust_proxies(app, trusted_proxies)
    with _listen(host, port) as listener:
        connections = Connections(app)
        config = uvicorn.Config(
            connections,
            http="h11",
            proxy_headers=False,  # uvicorn would let every local client choose its address
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        config.load()
        wrapped: Any = connections.wrap(config.http_protocol_class)
        config.http_protocol_class = wrapped
        server = _Server(config, lambda: on_ready and on_ready(_format_url(listener)))
        with report_refused_accepts(asyncio.get_running_loop()):
            await _serve_until_cancelled(server, listener)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, and with a callback when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    @override
    def capture_signals(self) -> Generator[None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._on_ready()


async def _serve_until_cancelled(server: _Server, listener: socket.socket) -> None:
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            with anyio.CancelScope(shield=True):
                await server.serve([listener])
            if not server.started:
                raise ConfigurationError("the server could not start", hint="read its log")
            tasks.cancel_scope.cancel()

        tasks.start_soon(run)
        try:
            await anyio.sleep_forever()
        finally:
            server.should_exit = True


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server that listens on a host.

    The address counts: `LOCALHOST`, `127.1` and often the machine's own name are loopback, too.
    """
    try:
        return _parse_address(str(_find_address(host, 0)[-1][0])).is_loopback
    except OSError:
        return False


def _find_address(host: str, port: int) -> tuple[int, int, int, str, Any]:
    """Return the first address of a host, as `socket.getaddrinfo` describes it."""
    host = host.removeprefix("[").removesuffix("]")
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]


def _parse_address(text: str) -> IPv4Address | IPv6Address:
    """Parse the address of a socket, and convert IPv6 that stands for IPv4."""
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


@contextmanager
def _listen(host: str, port: int) -> Generator[socket.socket]:
    try:
        family, kind, protocol, _, address = _find_address(host, port)
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _build_listen_error(host, port, error) from error
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise _build_listen_error(host, port, error) from error
        yield listener


def _build_listen_error(host: str, port: int, error: OSError) -> ConfigurationError:
    has_no_address = isinstance(error, socket.gaierror)
    return ConfigurationError(
        f"cannot listen on {host} port {port}: {error.strerror or error}",
        hint="use an address of this machine, such as 127.0.0.1"
        if has_no_address
        else "choose another port, or --port 0 for a free one",
    )


def _trust_proxies(app: ASGIApp, proxies: Sequence[str]) -> ASGIApp:
    """Return the application behind proxies that name their clients."""
    for proxy in proxies:
        try:
            ip_network(proxy)
        except ValueError:
            raise ConfigurationError(
                f"{proxy!r} is not the address or network of a proxy",
                hint="use one such as 10.0.0.4 or 10.0.0.0/8",
            ) from None
    wrapped: Any = ProxyHeadersMiddleware(cast("Any", app), trusted_hosts=list(proxies))
    return cast("ASGIApp", wrapped)


def _format_url(listener: socket.socket) -> str:
    """Return a URL that reaches the server from this machine."""
    host, port = listener.getsockname()[:2]
    address = _parse_address(str(host))
    if address.is_unspecified:  # any interface
        host = "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004
    elif address.version == 4:  # noqa: PLR2004
        host = str(address)
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/mcp"
