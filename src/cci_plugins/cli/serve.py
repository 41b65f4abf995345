"""`cci serve`: an HTTP server over the embedded pool, a pool of Azure, or an emulated pool.

The command checks its options, chooses a key and builds the pool. Then one of these servers runs
until Ctrl-C or SIGTERM:

- By default, a server over the embedded pool on this machine. With `--no-key`, something in front
  of it authenticates the clients and chooses their sessions. So `execute_code`, which chooses the
  session itself, is offered only with a key.
- With `--pool custom` or `--pool platform`, a gateway in front of a pool of Azure. It always
  requires a key, since you pay for that pool. It accepts only environment ids that it signed, so
  that no client can guess another client's session. Replicas share nothing except the secret.
- With `--entra`, a gateway in front of any pool, which accepts tokens of Microsoft Entra too. Each
  environment then belongs to the identity that launched it.
- With `--emulate`, a server that behaves like a pool of Azure.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from secrets import token_urlsafe
from typing import Annotated, Any
from urllib.parse import urlsplit

import anyio
import typer

from cci_plugins.common.limits import Limits
from cci_plugins.common.settings import IsolationName, PoolName, Settings
from cci_plugins.core.pool_choice import build_pool
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.base import SessionPool, check_background_support

from . import client_setup, console
from . import emulate as emulation
from .emulate import EmulatedKind, EmulationOptions
from .run import IsolationOption
from .serve_sign_in import AudienceOption, CallerOption, TenantOption, build_sign_in
from .settings_file import SettingsFileOption
from .variables import get_remote_variables

_PORT = 8765
_MIN_KEY_LENGTH = 16
# One key serves all conversations of a gateway, and each needs about five requests to start.
_GATEWAY_REQUESTS_PER_MINUTE = 6_000
_GATEWAY_RUNS_PER_MINUTE = 600  # a file in pieces is a run for each piece

HostOption = Annotated[str, typer.Option(help="Address to listen on.")]
PortOption = Annotated[
    int, typer.Option(min=0, max=65535, help="Port to listen on. 0 chooses a free one.")
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Key that clients must send. Other users of this machine can see it in the process "
        "list, so better set CCI_SERVE_KEY. By default a new key is generated.",
    ),
]
NoKeyOption = Annotated[
    bool,
    typer.Option(
        "--no-key",
        help="Accept requests without a key. Use it only behind something that authenticates "
        "clients, as a session pool does.",
    ),
]
PoolOption = Annotated[
    PoolName,
    typer.Option(
        help="Pool to serve: the embedded pool of this machine, or a configured pool of Azure. "
        "For a pool of Azure, this server is a gateway."
    ),
]
RequestsPerMinuteOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Maximum number of requests in a minute, of all clients with the key. By default "
        "6000 for a gateway.",
    ),
]
RunsPerMinuteOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Maximum number of runs of one environment in a minute. By default 600 for a gateway.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the endpoint and key as one line of JSON.")
]
FileLinksOption = Annotated[
    bool,
    typer.Option(
        "--file-links",
        help="Add links to the files that a run wrote to the answers of execute_code, for "
        "clients that show resources, such as VS Code.",
    ),
]
ConsoleOption = Annotated[
    bool,
    typer.Option(
        "--console",
        help="Keep in memory what each session runs, for cci sessions and the page /sessions.",
    ),
]
WaitOption = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        help="Longest time until a run over MCP is answered for. A longer one goes on, and the "
        "tool check_run returns its result. By default each answer waits for its run.",
    ),
]
TrustedProxyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted-proxy",
        metavar="ADDRESS",
        help="Address or network of a proxy whose X-Forwarded-For names the clients, such as "
        "10.0.0.0/8. By default no such header is believed.",
    ),
]


def serve(
    *,
    host: HostOption = "127.0.0.1",
    port: PortOption = _PORT,
    api_key: ApiKeyOption = None,
    no_key: NoKeyOption = False,
    pool: PoolOption = "local",
    emulate: emulation.KindOption = None,
    container: emulation.ContainerOption = None,
    fault_rate: emulation.FaultRateOption = 0,
    seed: emulation.SeedOption = 0,
    sessions: emulation.SessionsOption = None,
    cooldown: emulation.CooldownOption = None,
    requests_per_minute: RequestsPerMinuteOption = None,
    runs_per_minute: RunsPerMinuteOption = None,
    as_json: JsonOption = False,
    isolation: IsolationOption = None,
    file_links: FileLinksOption = False,
    wait: WaitOption = None,
    with_console: ConsoleOption = False,
    trusted_proxies: TrustedProxyOption = None,
    entra: TenantOption = None,
    audience: AudienceOption = None,
    caller: CallerOption = None,
    env_file: SettingsFileOption = None,
) -> None:
    """Serve a pool over MCP and REST until Ctrl-C.

    Prints the endpoint and what to paste into a client: environment variables for this package,
    and `mcp.json` for VS Code. Sessions of the embedded pool end with the server.
    """
    del env_file
    emulation.check_options(emulate, container, fault_rate, sessions=sessions, cooldown=cooldown)
    settings = _allow_emulated(Settings.read(), sessions, cooldown)
    sign_in = build_sign_in(entra, audience, caller)
    served_pool = _create_pool(settings, pool, isolation, emulate)
    check_wait(wait, served_pool, is_emulated=emulate is not None)
    key, display_key = (
        _check_no_key(api_key, settings) if no_key else _choose_key(api_key, settings)
    )
    limits, proxies = settings.limits(), trusted_proxies or []
    listener = _Listener(
        host, port, key, display_key, as_json, limits, proxies, wait, with_console=with_console
    )
    rates = {"requests_per_minute": requests_per_minute, "runs_per_minute": runs_per_minute}
    if emulate is not None:
        checked_key = _check_emulated(key, sign_in)
        options = EmulationOptions(
            emulate, container or "cci", fault_rate, seed, checked_key, sessions, cooldown
        )
        _serve_emulated_pool(served_pool, options, listener)
    elif pool == "local" and sign_in is None:
        _serve_pool(
            served_pool, listener, execute_code=key is not None, file_links=file_links, **rates
        )
    else:
        environments = _create_environments(settings, key)
        env = get_remote_variables(settings.model_copy(update={"pool": pool}))
        _serve_gateway(served_pool, listener, environments, sign_in, env=env, **rates)


@dataclass(frozen=True, slots=True)
class _Listener:
    """Address of the server, its key, and how to print them once it is ready.

    Attributes:
        key: Key that clients must send, or None to accept every request.
        display_key: The key, or the placeholder that is printed for it.
        trusted_proxies: Proxies whose `X-Forwarded-For` is believed.
        wait: Longest seconds until a run is answered for, or None.
        with_console: Whether the server keeps what it ran.
    """

    host: str
    port: int
    key: str | None = field(repr=False)
    display_key: str = field(repr=False)
    as_json: bool
    limits: Limits
    trusted_proxies: list[str]
    wait: float | None = None
    with_console: bool = False

    def check_console(self, *, is_emulated: bool) -> None:
        """Refuse a console that nobody, or everybody, could open."""
        if self.with_console and is_emulated:
            raise ConfigurationError(
                "an emulated pool has no console, since a pool of Azure has none",
                hint="leave --emulate or --console out",
            )
        if self.with_console and self.key is None:
            raise ConfigurationError(
                "--console needs a key, since it shows the sessions of everybody",
                hint="leave --no-key or --console out",
            )

    def warn_if_exposed(self, url: str) -> None:
        """Warn where others than the users of this machine reach the server.

        Args:
            url: URL of the server, with the port that it listens on.
        """
        from cci_plugins.server.listening import is_loopback

        if self.key is None:
            port = urlsplit(url).port
            console.print_warning(
                f"no key is required: anyone who reaches {self.host} port {port} can run code on "
                "this machine"
            )
            console.print_message(
                "without a key the tool execute_code is not offered: clients launch an environment"
            )
        elif not is_loopback(self.host):
            console.print_warning(
                f"listening on {self.host}: anyone who reaches this port and has the key can run "
                "code on this machine, and the connection is not encrypted"
            )


def _serve_pool(pool: SessionPool, listener: _Listener, **options: Any) -> None:
    listener.check_console(is_emulated=False)

    def print_endpoint(url: str) -> None:
        listener.warn_if_exposed(url)
        if listener.with_console:
            page = url.removesuffix("/mcp") + "/sessions"
            console.print_message(f"to see what runs, sign in with the key at {page}")
        isolation = pool.capabilities.isolation
        endpoint = client_setup.Endpoint(
            url, listener.display_key, isolation, needs_key=listener.key is not None
        )
        client_setup.print_endpoint(endpoint, as_json=listener.as_json)

    async def serve_http() -> None:
        from cci_plugins.server import serve as serve_over_http

        await serve_over_http(
            pool,
            host=listener.host,
            port=listener.port,
            api_key=listener.key,
            limits=listener.limits,
            on_ready=print_endpoint,
            trusted_proxies=listener.trusted_proxies,
            wait=listener.wait,
            console=listener.with_console,
            **options,
        )

    anyio.run(serve_until_signal, pool, serve_http)


def _serve_gateway(
    pool: SessionPool,
    listener: _Listener,
    environments: Any,
    sign_in: Any,
    *,
    env: dict[str, str] | None,
    requests_per_minute: int | None,
    runs_per_minute: int | None,
) -> None:
    """Serve a pool whose environments only this gateway issues."""
    _serve_pool(
        pool,
        listener,
        environments=environments,
        rest=False,
        env=env,
        requests_per_minute=requests_per_minute or _GATEWAY_REQUESTS_PER_MINUTE,
        runs_per_minute=runs_per_minute or _GATEWAY_RUNS_PER_MINUTE,
        **({} if sign_in is None else {"sign_in": sign_in}),
    )


def _serve_emulated_pool(pool: SessionPool, options: EmulationOptions, listener: _Listener) -> None:
    listener.check_console(is_emulated=True)

    def print_endpoint(url: str) -> None:
        listener.warn_if_exposed(url)
        emulation.print_endpoint(options.kind, url, listener.display_key, as_json=listener.as_json)

    async def serve_http() -> None:
        from cci_plugins.server import serve_app

        app = emulation.create_app(pool, options, listener.limits)
        await serve_app(
            app,
            host=listener.host,
            port=listener.port,
            on_ready=print_endpoint,
            trusted_proxies=listener.trusted_proxies,
        )

    anyio.run(serve_until_signal, pool, serve_http)


async def serve_until_signal(
    pool: SessionPool, serve_clients: Callable[[], Awaitable[None]]
) -> None:
    """Serve clients until they leave or a signal arrives, then close the pool.

    Args:
        pool: Pool to start before and to close after.
        serve_clients: Function that serves the pool until it is cancelled.
    """
    with _cancel_on_signals():  # also while the pool starts and closes
        async with pool:
            await serve_clients()


@contextmanager
def _cancel_on_signals() -> Generator[None]:
    """Leave the block at Ctrl-C or SIGTERM.

    Loops on Windows do not support signal handlers. There Ctrl-C raises instead.
    """
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        with suppress(NotImplementedError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, scope.cancel)
        yield


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
    if name != "local" and (isolation is not None or emulate is not None):
        option = "--isolation" if emulate is None else "--emulate"
        raise ConfigurationError(
            f"{option} works only with the embedded pool, not with --pool {name}",
            hint="drop one of them",
        )
    changes: dict[str, Any] = {"pool": name}
    if isolation is not None:
        changes["isolation"] = isolation
    chosen = settings.model_copy(update=changes)
    chosen.check()
    return build_pool(chosen)


def check_wait(wait: float | None, pool: SessionPool, *, is_emulated: bool = False) -> None:
    """Check before a server starts that its pool can do what `--wait` needs.

    Raises:
        ConfigurationError: It cannot.
    """
    if wait is None:
        return
    if is_emulated:
        raise ConfigurationError(
            "--wait and --emulate cannot be combined, since a pool of Azure answers for each run "
            "when it ends",
            hint="leave --emulate or --wait out",
        )
    try:
        check_background_support(pool.capabilities)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"--wait needs runs in the background: {error}",
            hint="leave --wait out, or serve the embedded pool",
        ) from None


def _create_environments(settings: Settings, key: str | None) -> Any:
    """Create a gateway's environment ids, which are signed.

    The signing key is derived from a secret that all replicas share.
    """
    from cci_plugins.server import SignedEnvironments

    if key is None:
        raise ConfigurationError(
            "a gateway requires a key, since you pay for the pool behind it, or clients sign in",
            hint="leave --no-key out, and give every replica the same CCI_SERVE_KEY",
        )
    secret = settings.session_secret
    source = key.encode() if secret is None else secret.get_secret_value().encode()
    return SignedEnvironments(hashlib.sha256(b"cci gateway\0" + source).digest())


def _check_emulated(key: str | None, sign_in: object) -> str:
    """Return the key of an emulated pool, which has no other way in."""
    if key is None:
        raise ConfigurationError("an emulated pool requires a key", hint="leave --no-key out")
    if sign_in is not None:
        raise ConfigurationError(
            "an emulated pool does not accept --entra", hint="leave --emulate or --entra out"
        )
    return key


def _check_no_key(api_key: str | None, settings: Settings) -> tuple[None, str]:
    """Check that no key is given, and return None and the key to print.

    A text is printed even so, because clients of this package always send a key.
    """
    if api_key is not None or settings.serve_key is not None:
        source = "option --api-key" if api_key is not None else "variable CCI_SERVE_KEY"
        raise ConfigurationError(
            f"--no-key cannot be combined with the {source}", hint="drop one of them"
        )
    return None, "unused"


def _choose_key(api_key: str | None, settings: Settings) -> tuple[str, str]:
    """Return the key, and the text to print for it. Only a generated key is printed itself."""
    if api_key is not None:
        key, display_key = api_key, "<your key>"
    elif settings.serve_key is not None:
        key, display_key = settings.serve_key.get_secret_value(), "$CCI_SERVE_KEY"
    else:
        key = display_key = token_urlsafe(32)
    if len(key) < _MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            f"the key must have at least {_MIN_KEY_LENGTH} printable ASCII characters, without "
            "spaces",
            hint="leave the key out to have one generated",
        )
    return key, display_key
