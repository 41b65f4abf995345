"""`cci serve --emulate`: a pool on this machine that behaves like a pool of Azure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Annotated, Any, Literal

import typer

from cci_plugins.common.limits import Limits
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.base import SessionPool

from . import client_setup, console

EmulatedKind = Literal["platform", "managed", "custom"]
Container = Literal["cci", "executions"]

KindOption = Annotated[
    EmulatedKind | None,
    typer.Option(help="Emulate this kind of Azure pool. Its sessions run in the embedded pool."),
]
ContainerOption = Annotated[
    Container | None,
    typer.Option(
        help="Server in an emulated custom pool's containers: that of cci-plugins, or one with "
        "the REST interface only."
    ),
]
FaultRateOption = Annotated[
    float, typer.Option(min=0, max=1, help="Share of requests to an emulated pool that fail.")
]
SeedOption = Annotated[
    int, typer.Option(help="Random seed. The same seed causes the same failures again.")
]

SessionsOption = Annotated[
    int | None,
    typer.Option(
        "--sessions", "--max-sessions", min=1, help="Most sessions of an emulated pool; 10."
    ),
]
CooldownOption = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        metavar="SECONDS",
        help="Time after which an emulated pool ends an unused session; 300.",
    ),
]


@dataclass(frozen=True, slots=True)
class EmulationOptions:
    """Options of an emulated pool.

    Attributes:
        kind: Kind of pool to emulate.
        container: Server in the containers of a custom pool.
        fault_rate: Share of requests that fail, from 0 to 1.
        seed: Random seed of the failures.
        key: Key of the pool, which is its access token too.
        sessions: Most sessions at a time. None keeps the emulator's default.
        cooldown: Seconds after which an unused session ends. None keeps the emulator's default.
    """

    kind: EmulatedKind
    container: Container
    fault_rate: float
    seed: int
    key: str = field(repr=False)
    sessions: int | None = None
    cooldown: float | None = None


def create_app(pool: SessionPool, options: EmulationOptions, limits: Limits) -> Any:
    """Create the ASGI application that emulates a pool."""
    from cci_plugins.server import Emulation, Emulator, Faults

    faults = Faults(rate=options.fault_rate, seed=options.seed)
    emulation = Emulation(kind=options.kind, container=options.container, faults=faults)
    if options.sessions is not None:
        emulation = replace(emulation, max_sessions=options.sessions)
    if options.cooldown is not None:
        emulation = replace(emulation, cooldown=timedelta(seconds=options.cooldown))
    return Emulator(pool, emulation, key=options.key, token=options.key, limits=limits)


def get_endpoint(kind: EmulatedKind, url: str) -> str:
    """Return the endpoint as the client's variable takes it. Only MCP pools have `/mcp` in it."""
    return url if kind == "platform" else url.removesuffix("/mcp")


def print_endpoint(kind: EmulatedKind, url: str, key: str, *, as_json: bool) -> None:
    """Print how to connect to an emulated pool."""
    if as_json:
        facts = {"kind": kind, "endpoint": get_endpoint(kind, url), "key": key}
        console.write_stdout(json.dumps(facts) + "\n")
        return
    console.print_message(f"this is an emulated {kind} pool of Azure Container Apps")
    console.print_message("to use it with this package, in another terminal:")
    console.write_stdout(_format_environment(kind, url, key))
    client_setup.print_stop_message()


def _format_environment(kind: EmulatedKind, url: str, key: str) -> str:
    if kind == "platform":
        return client_setup.format_environment(url, key)
    endpoint = url.removesuffix("/mcp")
    return f'export AZURE_SESSION_POOL_ENDPOINT="{endpoint}"\nexport CCI_ACCESS_TOKEN="{key}"\n'


def check_options(
    kind: EmulatedKind | None,
    container: Container | None,
    fault_rate: float,
    *,
    sessions: int | None,
    cooldown: float | None,
) -> None:
    """Reject options that have no effect without `--emulate`.

    Raises:
        ConfigurationError: `--fault-rate` or `--container` does not fit the emulated pool.
    """
    if kind is None and fault_rate:
        raise ConfigurationError(
            f"--fault-rate {fault_rate:g} works only with an emulated pool", hint="add --emulate"
        )
    for option, value in (("--sessions", sessions), ("--cooldown", cooldown)):
        if kind is None and value is not None:
            raise ConfigurationError(
                f"{option} {value:g} works only with an emulated pool",
                hint=f"add --emulate, or set CCI_{option[2:].upper()} for the embedded pool",
            )
    if kind != "custom" and container is not None:
        raise ConfigurationError(
            f"--container {container} works only with an emulated custom pool",
            hint="add --emulate custom",
        )
