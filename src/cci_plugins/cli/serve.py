"""`cci serve`: a pool for any MCP client: the embedded one, one of Azure, or an emulated one."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from secrets import token_urlsafe
from typing import Annotated, Any

import anyio
import typer

from cci_plugins.common.limits import Limits
from cci_plugins.common.settings import IsolationName, PoolName, Settings
from cci_plugins.core.interpreter import build_pool
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.base import SessionPool

from . import console
from . import emulate as emulation
from .client_setup import Endpoint, print_endpoint
from .emulate import EmulatedKind

_PORT = 8765
_MIN_KEY = 16
_GATEWAY_RATE = 600  # requests a minute

ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Key that clients must send. Other users of this machine can see it; the "
        "variable CCI_SERVE_KEY keeps it out of sight. By default a new one is made.",
    ),
]
NoKeyOption = Annotated[
    bool,
    typer.Option(
        "--no-key",
        help="Let everyone in. Only where something in front of this server authenticates, as "
        "a session pool does.",
    ),
]
FileLinksOption = Annotated[
    bool,
    typer.Option(
        "--file-links",
        help="Link the files that a run wrote in the answers of execute_code, for clients that "
        "show resources, such as VS Code.",
    ),
]


def serve(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = _PORT,
    api_key: ApiKeyOption = None,
    no_key: NoKeyOption = False,
    pool: Annotated[
        PoolName,
        typer.Option(
            help="Pool to serve: this machine's own; or one of Azure that is configured, with this "
            "server as the gateway in front of it."
        ),
    ] = "local",
    emulate: emulation.KindOption = None,
    container: emulation.ContainerOption = None,
    fault_rate: emulation.FaultRateOption = 0,
    seed: emulation.SeedOption = 0,
    sessions: emulation.SessionsOption = None,
    cooldown: emulation.CooldownOption = None,
    requests_per_minute: Annotated[
        int | None,
        typer.Option(min=1, help="Most requests in a minute; 600 for a gateway."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the endpoint and key as one line of JSON.")
    ] = False,
    isolation: Annotated[IsolationName | None, typer.Option(help="Fence of the sessions.")] = None,
    file_links: FileLinksOption = False,
) -> None:
    """Serve a pool over MCP and REST until Ctrl-C.

    Prints the endpoint and what to paste into a client: environment variables for this package,
    and `mcp.json` for VS Code. Sessions of the embedded pool end with the server.
    """
    emulation.check_options(emulate, container, fault_rate, sessions=sessions, cooldown=cooldown)
    settings = _allow_emulated(Settings.read(), sessions, cooldown)
    served_pool = _create_pool(settings, pool, isolation, emulate)
    key, display_key = (
        _check_no_key(api_key, settings) if no_key else _choose_key(api_key, settings)
    )
    _warn_if_exposed(host, port, key)
    listen_options = _ListenOptions(host, port, key, settings.limits())
    if emulate is not None:
        if key is None:
            raise ConfigurationError("an emulated pool asks for a key", hint="leave --no-key out")
        what = emulation.EmulationOptions(
            emulate, container or "cci", fault_rate, seed, key, sessions, cooldown
        )
        anyio.run(_emulate, served_pool, what, listen_options, _ListeningInfo(display_key, as_json))
        return

    def on_ready(url: str) -> None:
        print_endpoint(
            Endpoint(url, display_key, served_pool.capabilities.isolation), as_json=as_json
        )

    options: dict[str, Any] = {
        "requests_per_minute": requests_per_minute,
        "execute_code": key is not None,  # else what is in front decides which session a client has
        "file_links": file_links,
    }
    if pool != "local":
        options = _build_gateway_options(settings, key) | (
            {} if requests_per_minute is None else options
        )
    anyio.run(_serve, served_pool, listen_options, on_ready, options)


def _allow_emulated(settings: Settings, sessions: int | None, cooldown: float | None) -> Settings:
    """Return settings under which the embedded pool keeps what the emulated one promises."""
    return settings.model_copy(
        update={
            "sessions": max(settings.sessions, sessions or 0),
            "cooldown": max(settings.cooldown, cooldown or 0),
        }
    )


def _create_pool(
    settings: Settings,
    name: PoolName,
    isolation: IsolationName | None,
    emulate: EmulatedKind | None,
) -> SessionPool:
    """The pool to serve."""
    if name != "local" and (isolation is not None or emulate is not None):
        option = "--isolation" if emulate is None else "--emulate"
        raise ConfigurationError(
            f"{option} is about the embedded pool, not about --pool {name}", hint="drop one of them"
        )
    changes: dict[str, Any] = {"pool": name}
    if isolation is not None:
        changes["isolation"] = isolation
    chosen = settings.model_copy(update=changes)
    chosen.check()
    return build_pool(chosen)


def _build_gateway_options(settings: Settings, key: str | None) -> dict[str, Any]:
    """How a gateway serves: only ids of its own, which every replica with the same secret takes."""
    from cci_plugins.server import SignedEnvironments

    if key is None:
        raise ConfigurationError(
            "a gateway asks for a key: behind it is a pool that you pay for",
            hint="leave --no-key out; give every replica the same CCI_SERVE_KEY",
        )
    secret = settings.session_secret
    source = key.encode() if secret is None else secret.get_secret_value().encode()
    signer = hashlib.sha256(b"cci gateway\0" + source).digest()
    environments = SignedEnvironments(signer)
    return {"environments": environments, "rest": False, "requests_per_minute": _GATEWAY_RATE}


def _warn_if_exposed(host: str, port: int, key: str | None) -> None:
    if key is None:
        console.print_warning(
            f"no key is asked for: whoever reaches {host} port {port} runs code on this machine"
        )
    elif not _is_loopback(host):
        console.print_warning(
            f"listening on {host}: whoever reaches this port and has the key runs code on this "
            "machine, and the connection is not encrypted"
        )


@dataclass(frozen=True, slots=True)
class _ListeningInfo:
    """What to print when the server is ready: the key as it may be shown, and in which form."""

    key: str = field(repr=False)
    as_json: bool


@dataclass(frozen=True, slots=True)
class _ListenOptions:
    """Where to listen, and what to let in."""

    host: str
    port: int
    key: str | None = field(repr=False)
    limits: Limits


def _check_no_key(given: str | None, settings: Settings) -> tuple[None, str]:
    """No key, and what to show for it: clients of this package insist on sending one."""
    if given is not None or settings.serve_key is not None:
        source = "option --api-key" if given is not None else "variable CCI_SERVE_KEY"
        raise ConfigurationError(f"--no-key excludes the {source}", hint="drop one of them")
    return None, "unused"


def _choose_key(given: str | None, settings: Settings) -> tuple[str, str]:
    """The key, and what to show of it: one that the caller gave is not repeated."""
    if given is not None:
        key, display_key = given, "<your key>"
    elif settings.serve_key is not None:
        key, display_key = settings.serve_key.get_secret_value(), "$CCI_SERVE_KEY"
    else:
        key = display_key = token_urlsafe(32)
    if len(key) < _MIN_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            f"the key must have at least {_MIN_KEY} printable ASCII characters, without spaces",
            hint="leave it out to have one made",
        )
    return key, display_key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _emulate(
    pool: SessionPool,
    what: emulation.EmulationOptions,
    listen_options: _ListenOptions,
    listening_info: _ListeningInfo,
) -> None:
    """Serve an emulated pool until a signal."""
    from cci_plugins.server import serve_app

    def on_ready(url: str) -> None:
        emulation.print_endpoint(what.kind, url, listening_info.key, as_json=listening_info.as_json)

    app = emulation.create_app(pool, what, listen_options.limits)
    async with pool:
        with cancel_on_signals():
            await serve_app(
                app, host=listen_options.host, port=listen_options.port, on_ready=on_ready
            )


async def _serve(
    pool: SessionPool,
    listen_options: _ListenOptions,
    on_ready: Callable[[str], None],
    options: dict[str, Any],
) -> None:
    """Serve until a signal, then end every session of this machine."""
    from cci_plugins.server import serve as serve_pool

    async with pool:
        with cancel_on_signals():
            await serve_pool(
                pool,
                host=listen_options.host,
                port=listen_options.port,
                api_key=listen_options.key,
                limits=listen_options.limits,
                on_ready=on_ready,
                **options,
            )


@contextmanager
def cancel_on_signals() -> Generator[None]:
    """Leave the block at Ctrl-C or SIGTERM; where loops know no signals, Ctrl-C raises."""
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        with suppress(NotImplementedError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, scope.cancel)
        yield
