"""`cci serve --emulate`: a pool on this machine that behaves like one of Azure's."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Annotated, Any, Literal

import typer

from cci_plugins.common.limits import Limits
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.base import SessionPool

from . import console

EmulatedKind = Literal["platform", "managed", "custom"]
Container = Literal["cci", "executions"]

KindOption = Annotated[
    EmulatedKind | None,
    typer.Option(help="Behave like this kind of Azure pool, with the embedded pool behind."),
]
ContainerOption = Annotated[
    Container | None,
    typer.Option(help="In an emulated custom pool's containers: our server, or REST only."),
]
FaultRateOption = Annotated[
    float, typer.Option(min=0, max=1, help="Share of requests to an emulated pool that fail.")
]
SeedOption = Annotated[int, typer.Option(help="Makes the same faults come again.")]

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
    """What to emulate, and what opens it.

    Attributes:
        kind: Which pool.
        container: What runs in the containers of a custom pool.
        fault_rate: Share of the requests that meet a fault.
        seed: Makes the same faults come again.
        key: The pool's key, and its token.
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


def create_app(pool: SessionPool, what: EmulationOptions, limits: Limits) -> Any:
    """The application to serve."""
    from cci_plugins.server import Emulation, Emulator, Faults

    faults = Faults(rate=what.fault_rate, seed=what.seed)
    emulation = Emulation(kind=what.kind, container=what.container, faults=faults)
    if what.sessions is not None:
        emulation = replace(emulation, max_sessions=what.sessions)
    if what.cooldown is not None:
        emulation = replace(emulation, cooldown=timedelta(seconds=what.cooldown))
    return Emulator(pool, emulation, key=what.key, token=what.key, limits=limits)


def get_endpoint(kind: EmulatedKind, url: str) -> str:
    """Return the endpoint as the client's variable takes it. Only MCP pools have `/mcp` in it."""
    return url if kind == "platform" else url.removesuffix("/mcp")


def format_environment(kind: EmulatedKind, url: str, key: str) -> str:
    """Shell lines that make this package use the pool."""
    if kind == "platform":
        return (
            f'export AZURE_SESSION_POOL_MCP_ENDPOINT="{url}"\n'
            f'export AZURE_SESSION_POOL_MCP_KEY="{key}"\n'
        )
    endpoint = get_endpoint(kind, url)
    return f'export AZURE_SESSION_POOL_ENDPOINT="{endpoint}"\nexport CCI_ACCESS_TOKEN="{key}"\n'


def print_endpoint(kind: EmulatedKind, url: str, key: str, *, as_json: bool) -> None:
    """Print what to paste."""
    if as_json:
        facts = {"kind": kind, "endpoint": get_endpoint(kind, url), "key": key}
        console.write_stdout(json.dumps(facts) + "\n")
        return
    console.print_message(f"this behaves like a {kind} pool of Azure Container Apps; it is none")
    console.print_message("for this package, in another terminal:")
    console.write_stdout(format_environment(kind, url, key))
    console.print_message("press Ctrl-C to stop; sessions on this machine end with the server")


def check_options(
    kind: EmulatedKind | None,
    container: Container | None,
    fault_rate: float,
    *,
    sessions: int | None,
    cooldown: float | None,
) -> None:
    """Refuse options that say nothing without `--emulate`.

    Raises:
        ConfigurationError: There are such.
    """
    if kind is None and fault_rate:
        raise ConfigurationError("--fault-rate is about an emulated pool", hint="add --emulate")
    for option, value in (("--sessions", sessions), ("--cooldown", cooldown)):
        if kind is None and value is not None:
            raise ConfigurationError(
                f"{option} is about an emulated pool, not about the embedded one",
                hint=f"add --emulate, or set CCI_{option[2:].upper()}",
            )
    if kind != "custom" and container is not None:
        raise ConfigurationError(
            "--container is about an emulated custom pool", hint="add --emulate custom"
        )
