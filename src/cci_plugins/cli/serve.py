"""`cci serve`: the embedded pool, for any MCP client on this machine."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from secrets import token_urlsafe
from typing import Annotated

import anyio
import typer

from cci_plugins.errors import ConfigurationError
from cci_plugins.interpreter import pool_from
from cci_plugins.limits import Limits
from cci_plugins.pools.base import SessionPool
from cci_plugins.settings import IsolationName, Settings

from . import console
from .client_setup import Endpoint, announce

_PORT = 8765
_MIN_KEY = 16


def serve(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = _PORT,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Key that clients must send. Other users of this machine can see it; the "
            "variable CCI_SERVE_KEY keeps it out of sight. By default a new one is made.",
        ),
    ] = None,
    no_key: Annotated[
        bool,
        typer.Option(
            "--no-key",
            help="Let everyone in. Only where something in front of this server authenticates, as "
            "a session pool does.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the endpoint and key as one line of JSON.")
    ] = False,
    isolation: Annotated[IsolationName | None, typer.Option(help="Fence of the sessions.")] = None,
) -> None:
    """Serve the embedded pool over MCP and REST until Ctrl-C.

    Prints the endpoint and what to paste into a client: environment variables for this package,
    and `mcp.json` for VS Code. Every session ends with the server.
    """
    settings = Settings.read()
    changes = {"pool": "local"} | ({} if isolation is None else {"isolation": isolation})
    pool = pool_from(settings.model_copy(update=changes))
    key, shown = _no_key(api_key, settings) if no_key else _key(api_key, settings)
    if no_key:
        console.warn(
            f"no key is asked for: whoever reaches {host} port {port} runs code on this machine"
        )
    elif not _is_loopback(host):
        console.warn(
            f"listening on {host}: whoever reaches this port and has the key runs code on this "
            "machine, and the connection is not encrypted"
        )

    def ready(url: str) -> None:
        announce(Endpoint(url, shown, pool.capabilities.isolation), as_json=as_json)

    anyio.run(_serve, pool, _Listener(host, port, key, settings.limits()), ready)


@dataclass(frozen=True, slots=True)
class _Listener:
    """Where to listen, and what to let in."""

    host: str
    port: int
    key: str | None = field(repr=False)
    limits: Limits


def _no_key(given: str | None, settings: Settings) -> tuple[None, str]:
    """No key, and what to show for it: clients of this package insist on sending one."""
    if given is not None or settings.serve_key is not None:
        source = "option --api-key" if given is not None else "variable CCI_SERVE_KEY"
        raise ConfigurationError(f"--no-key excludes the {source}", hint="drop one of them")
    return None, "unused"


def _key(given: str | None, settings: Settings) -> tuple[str, str]:
    """The key, and what to show of it: one that the caller gave is not repeated."""
    if given is not None:
        key, shown = given, "<your key>"
    elif settings.serve_key is not None:
        key, shown = settings.serve_key.get_secret_value(), "$CCI_SERVE_KEY"
    else:
        key = shown = token_urlsafe(32)
    if len(key) < _MIN_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            f"the key must have at least {_MIN_KEY} printable ASCII characters, without spaces",
            hint="leave it out to have one made",
        )
    return key, shown


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _serve(pool: SessionPool, listener: _Listener, ready: Callable[[str], None]) -> None:
    """Serve until a signal, then end every session."""
    from cci_plugins.server import serve as serve_pool

    async with pool:
        with _cancelled_by_signals():
            await serve_pool(
                pool,
                host=listener.host,
                port=listener.port,
                api_key=listener.key,
                limits=listener.limits,
                on_ready=ready,
            )


@contextmanager
def _cancelled_by_signals() -> Generator[None]:
    """Leave the block at Ctrl-C or SIGTERM; where loops know no signals, Ctrl-C raises."""
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        with suppress(NotImplementedError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, scope.cancel)
        yield
