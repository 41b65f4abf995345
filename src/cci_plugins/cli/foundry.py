"""`cci foundry`: connect a Microsoft Foundry project to a session pool, and disconnect it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from cci_plugins.common.settings import Settings
from cci_plugins.errors import ConfigurationError

from . import console
from .help import HelpCommand, HelpGroup

if TYPE_CHECKING:
    from cci_plugins.foundry import Connection, Project

app = typer.Typer(
    cls=HelpGroup,
    help="Connect a Microsoft Foundry project to a session pool, so that its agents run Python.",
    no_args_is_help=True,
)

ProjectOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Resource id or endpoint of the project. By default AZURE_AI_PROJECT_ID, otherwise "
        "FOUNDRY_PROJECT_ENDPOINT.",
    ),
]
ToolboxOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Toolbox of the project for the pool's tools, which several agents can share.",
    ),
]
NameOption = Annotated[str, typer.Option(help="Name of the connection in the project.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")]
CheckRunsOption = Annotated[
    bool,
    typer.Option(
        "--check-runs",
        help="Put the tool check_run into the toolbox too. A gateway offers it with "
        "cci serve --wait, because Foundry ends a call after 100 seconds.",
    ),
]
_NAME = "code-interpreter"


@app.command(cls=HelpCommand, epilog="cci foundry connect --project ID")
def connect(
    *,
    project: ProjectOption = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="MCP endpoint to connect to, such as a gateway's. Its key is read from "
            "AZURE_SESSION_POOL_MCP_KEY, otherwise from CCI_SERVE_KEY. A gateway with --entra "
            "needs it too.",
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Resource id of the pool. Its endpoint and key are read from Azure."
        ),
    ] = None,
    name: NameOption = _NAME,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a connection that has another endpoint.")
    ] = False,
    toolbox: ToolboxOption = None,
    check_runs: CheckRunsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Connect a project's agents to a session pool's MCP endpoint, without showing the key.

    Only differences are written, so you can run the command again, for example after the key
    was rotated. Without --endpoint and --pool, the pool is that of
    AZURE_SESSION_POOL_RESOURCE_ID, or of AZURE_SESSION_POOL_MCP_ENDPOINT and
    AZURE_SESSION_POOL_MCP_KEY.
    """
    if endpoint is not None and pool is not None:
        raise ConfigurationError(
            "--endpoint and --pool cannot be combined", hint="drop one of them"
        )
    if check_runs and toolbox is None:
        raise ConfigurationError(
            "--check-runs needs --toolbox, since only a toolbox lists its tools",
            hint="without a toolbox, call create_agent(check_runs=True)",
        )
    key = None if endpoint is None else _read_key()
    from cci_plugins import foundry

    async def work() -> foundry.Connection:
        return await foundry.connect(
            _find_project(project),
            endpoint=endpoint,
            key=key,
            pool=pool,
            name=name,
            replace=replace,
            toolbox=toolbox,
            check_runs=check_runs,
        )

    with console.show_progress("connecting"):
        connection = anyio.run(work)
    _print_connection(connection, as_json=as_json)


def _print_connection(connection: Connection, *, as_json: bool) -> None:
    if as_json:
        facts: dict[str, Any] = {
            "id": connection.id,
            "name": connection.name,
            "endpoint": connection.endpoint,
            "change": connection.change,
        }
        if connection.toolbox is not None:
            facts["toolbox"] = asdict(connection.toolbox)
        console.write_stdout(json.dumps(facts) + "\n")
        return
    console.print_message(
        f"connection {connection.name}: {connection.change}, endpoint {connection.endpoint}"
    )
    if connection.toolbox is not None:
        box = connection.toolbox
        console.print_message(f"toolbox {box.name}: {box.change}, version {box.version}")
        console.print_message(
            "an agent uses it by create_agent(toolbox=...), and its identity needs the role "
            "Foundry User on the project"
        )
    console.print_message("to use it in agents of this package:")
    console.write_stdout(f'export MCP_PROJECT_CONNECTION_ID="{connection.id}"\n')


@app.command(cls=HelpCommand, epilog="cci foundry disconnect --project ID")
def disconnect(
    *,
    project: ProjectOption = None,
    name: NameOption = _NAME,
    toolbox: ToolboxOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove the connection, so that agents lose their code interpreter. The pool stays."""
    from cci_plugins import foundry

    async def work() -> bool:
        return await foundry.disconnect(_find_project(project), name=name, toolbox=toolbox)

    with console.show_progress("disconnecting"):
        removed = anyio.run(work)
    if as_json:
        console.write_stdout(json.dumps({"name": name, "removed": removed}) + "\n")
    else:
        console.print_message(f"connection {name}: {'removed' if removed else 'does not exist'}")


def _find_project(name: str | None) -> Project:
    from cci_plugins.foundry.project import Project, parse_project

    return Project.from_env() if name is None else parse_project(name)


def _read_key() -> str:
    """Return the key of the endpoint that `--endpoint` names."""
    settings = Settings.read(check=False)
    key = settings.mcp_key or settings.serve_key
    if key is None:
        raise ConfigurationError(
            "the endpoint's key is not set, and Foundry's connection needs it, because Foundry "
            "does not sign in to a gateway with Entra",
            hint="set AZURE_SESSION_POOL_MCP_KEY to the gateway's key",
        )
    return key.get_secret_value()
