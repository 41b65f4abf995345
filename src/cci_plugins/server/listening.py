"""A listening socket, and the server behind it until it is cancelled."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from ipaddress import ip_address

import anyio
import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override

from cci_plugins.common.limits import Limits
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.base import SessionPool

from .app import LOOPBACK, create_app
from .mcp.environments import Environments
from .mcp.sdk import BODY_BYTES

_BACKLOG = 512
_GRACE_SECONDS = 3
_KEEP_ALIVE_SECONDS = 75  # longer than clients keep a connection
_MAX_CONCURRENT_REQUESTS = 512


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
    body_bytes: int = BODY_BYTES,
) -> None:
    """Serve a pool over HTTP until cancelled; then let running requests end for a moment.

    No signal handler is touched, so this runs in any thread.

    Args:
        pool: Where code runs; started and closed by the caller.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        api_key: What clients must send; None lets everyone in.
        on_ready: Called with the URL of the MCP endpoint once requests are answered.
        limits: The longest run, the largest upload, and how much a model may read.
        allowed_hosts: Further names by which this server may be called on a loopback address;
            on any other address every name is allowed, since the key decides.
        environments: Which environment ids are given and taken; None takes any.
        rest: Serve the REST data plane too, which cannot be beside signed environments.
        friendly: Offer `execute_code` too; see `create_app`.
        file_links: Link the files that a run wrote in its answers.
        requests_per_minute: Most requests of one key, or without a key of one address.
        body_bytes: Longest body of a request, but for uploads, which `limits` bounds.

    Raises:
        ConfigurationError: The address cannot be listened on, or `rest` is asked for beside
            signed environments.
    """
    hosts = (*LOOPBACK, host, *allowed_hosts) if _is_loopback(host) else None
    app = create_app(
        pool,
        api_key=api_key,
        limits=limits,
        hosts=hosts,
        environments=environments,
        rest=rest,
        execute_code=execute_code,
        file_links=file_links,
        requests_per_minute=requests_per_minute,
        body_bytes=body_bytes,
    )
    await serve_app(app, host=host, port=port, on_ready=on_ready)


async def serve_app(
    app: ASGIApp, *, host: str, port: int, on_ready: Callable[[str], None] | None = None
) -> None:
    """Serve an application over HTTP until cancelled; see `serve`.

    Raises:
        ConfigurationError: The address cannot be listened on.
    """
    with _listen(host, port) as listener:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            limit_concurrency=_MAX_CONCURRENT_REQUESTS,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        server = _Server(config, lambda: on_ready and on_ready(_format_url(listener)))
        await _serve_until_cancelled(server, listener)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, and with a word when it is ready."""

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
                raise ConfigurationError("the server could not start", hint="its log says why")
            tasks.cancel_scope.cancel()

        tasks.start_soon(run)
        try:
            await anyio.sleep_forever()
        finally:
            server.should_exit = True


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _listen(host: str, port: int) -> Generator[socket.socket]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
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
    return ConfigurationError(
        f"cannot listen on {host} port {port}: {error.strerror or error}",
        hint="choose another port; --port 0 takes a free one",
    )


def _format_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/mcp"
