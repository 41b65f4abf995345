"""`cci foundry`: connect a Microsoft Foundry project to a session pool, and disconnect it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from cci_plugins.common.settings import Settings
from cci_plugins.errors import ConfigurationError

from . import console

if TYPE_CHECKING:
    from cci_plugins.foundry import Project

app = typer.Typer(
    help="Connect a Microsoft Foundry project to a session pool, so that its agents run Python.",
    no_args_is_help=True,
)

ProjectOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="The project: its resource id or its endpoint. By default AZURE_AI_PROJECT_ID, or "
        "else FOUNDRY_PROJECT_ENDPOINT.",
    ),
]
NameOption = Annotated[str, typer.Option(help="Name of the connection in the project.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print what was done as one line of JSON.")
]
_NAME = "code-interpreter"


@app.command()
def connect(
    *,
    project: ProjectOption = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="MCP endpoint to connect to, such as the gateway's; its key is read from "
            "AZURE_SESSION_POOL_MCP_KEY, or else CCI_SERVE_KEY.",
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Resource id of a pool, whose endpoint and key are asked."),
    ] = None,
    name: NameOption = _NAME,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take over a connection that leads elsewhere.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Give a project's agents a session pool: its MCP endpoint, and the key, which is not shown.

    It looks first and writes only what differs, so run it again when the key was rotated. The
    pool is that of AZURE_SESSION_POOL_RESOURCE_ID, or of AZURE_SESSION_POOL_MCP_ENDPOINT and
    AZURE_SESSION_POOL_MCP_KEY, unless an option names one.
    """
    if endpoint is not None and pool is not None:
        raise ConfigurationError("--endpoint and --pool are two ways to say it", hint="give one")
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
        )

    with console.show_progress("connecting"):
        done = anyio.run(work)
    if as_json:
        facts = {"id": done.id, "name": done.name, "endpoint": done.endpoint, "change": done.change}
        console.write_stdout(json.dumps(facts) + "\n")
        return
    console.print_message(f"connection {done.name}: {done.change}; it leads to {done.endpoint}")
    console.print_message("for agents of this package:")
    console.write_stdout(f'export MCP_PROJECT_CONNECTION_ID="{done.id}"\n')


@app.command()
def disconnect(
    *, project: ProjectOption = None, name: NameOption = _NAME, as_json: JsonOption = False
) -> None:
    """Remove the connection; the pool and its key stay, and agents lose their code interpreter."""
    from cci_plugins import foundry

    async def work() -> bool:
        return await foundry.disconnect(_find_project(project), name=name)

    with console.show_progress("disconnecting"):
        removed = anyio.run(work)
    if as_json:
        console.write_stdout(json.dumps({"name": name, "removed": removed}) + "\n")
    else:
        console.print_message(f"connection {name}: {'removed' if removed else 'there was none'}")


def _find_project(named: str | None) -> Project:
    from cci_plugins.foundry.project import Project, parse_project

    return Project.from_env() if named is None else parse_project(named)


def _read_key() -> str:
    """The key of an endpoint that was named."""
    settings = Settings.read(check=False)
    key = settings.mcp_key or settings.serve_key
    if key is None:
        raise ConfigurationError(
            "the endpoint's key is not set", hint="set AZURE_SESSION_POOL_MCP_KEY to it"
        )
    return key.get_secret_value()
