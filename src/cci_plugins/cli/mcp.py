"""`cci mcp`: a code interpreter for one MCP client, over standard input and output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer
from rich.filesize import decimal

from cci_plugins.core.interpreter import build_file_options
from cci_plugins.core.pool_choice import build_pool
from cci_plugins.errors import ConfigurationError

from . import console
from .client_install import ClientName, get_config_path
from .client_install import install as write_config
from .client_setup import PrintedClientName, build_stdio_server, format_stdio_config
from .run import IsolationOption, load_settings
from .serve import FileLinksOption, WaitOption, check_wait, serve_until_signal
from .settings_file import SettingsFileOption
from .variables import get_remote_variables

if TYPE_CHECKING:
    from cci_plugins.common.settings import Settings
    from cci_plugins.server.mcp.mounted_folder import MountedFolder

MountOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder whose files are copied into the session, without hidden files and without "
        "links that lead out of it.",
    ),
]
_TERMINAL_MESSAGE = (
    "this is an MCP server on standard input and output, which an MCP client starts. To add it to "
    "one, run: cci mcp --install vscode. Press Ctrl-C to stop"
)


def mcp(
    *,
    install: Annotated[
        ClientName | None,
        typer.Option(help="Write the configuration of a client, after showing it and asking."),
    ] = None,
    print_config: Annotated[
        PrintedClientName | None,
        typer.Option(
            help="Print the configuration of a client and exit. The name claude stands for every "
            "client with mcpServers."
        ),
    ] = None,
    mount: MountOption = None,
    mount_hidden: Annotated[
        bool, typer.Option("--mount-hidden", help="Copy hidden files of --mount too, such as .env.")
    ] = False,
    all_tools: Annotated[
        bool,
        typer.Option("--all-tools", help="Offer the tools of a session pool in addition."),
    ] = False,
    file_links: FileLinksOption = False,
    wait: WaitOption = None,
    isolation: IsolationOption = None,
    env_file: SettingsFileOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write without asking.")] = False,
) -> None:
    """Serve one MCP client on standard input and output until it disconnects.

    The client starts this command itself. Configure it with --install or --print-config. The tool
    execute_code has one session, which ends with the client. The code runs in the embedded pool
    on this machine, or in the session pool that the environment configures.
    """
    if client := install or print_config:
        server = build_stdio_server(
            client,
            isolation=isolation,
            file_links=file_links,
            all_tools=all_tools,
            mount=mount,
            mount_hidden=mount_hidden,
            wait=wait,
            env_file=env_file,
        )
        if install is not None:
            write_config(install, server, is_confirmed=yes)
        else:
            _print_config(client, server)
        return
    settings = load_settings(isolation)
    settings = settings.model_copy(update={"ready_sessions": 1})
    _check_installed()
    if sys.stdin.isatty():
        console.print_message(_TERMINAL_MESSAGE)
    mounted = None
    if mount is not None:
        mounted = _mount(mount, with_hidden=mount_hidden, is_local=settings.chosen_pool == "local")
    _serve(settings, mounted, file_links=file_links, all_tools=all_tools, wait=wait)


def _print_config(client: PrintedClientName, server: dict[str, Any]) -> None:
    if client != "claude":
        console.print_message(f"put this into {get_config_path(client)}")
    console.write_stdout(format_stdio_config(client, server))


def _serve(
    settings: Settings,
    mounted: MountedFolder | None,
    *,
    file_links: bool,
    all_tools: bool,
    wait: float | None,
) -> None:
    """Serve the client until it disconnects, or a signal arrives."""
    pool, files = build_pool(settings), build_file_options(settings)
    check_wait(wait, pool)

    async def serve_client() -> None:
        from cci_plugins.server import serve_stdio

        await serve_stdio(
            pool,
            limits=settings.limits(),
            files=files,
            file_links=file_links,
            all_tools=all_tools,
            mounted=mounted,
            wait=wait,
            env=get_remote_variables(settings),
        )

    anyio.run(serve_until_signal, pool, serve_client)


def _mount(folder: Path, *, with_hidden: bool, is_local: bool) -> MountedFolder:
    """Read the folder of `--mount`, and print what its sessions get."""
    from cci_plugins.server.mcp.mounted_folder import MountedFolder

    mounted = MountedFolder(folder, with_hidden=with_hidden)
    where = "the session" if is_local else "the session, which is in a pool outside this machine"
    console.print_message(
        f"copies of {len(mounted.files):,} files ({decimal(mounted.size)}) of {folder} go into "
        f"{where}"
    )
    return mounted


def _check_installed() -> None:
    """Check that the extra `serve` is installed, before the client waits for an answer."""
    from importlib.util import find_spec

    if find_spec("mcp") is None:
        raise ConfigurationError(
            "cci mcp needs mcp", hint='pip install "cci-plugins[cli,local,serve]"'
        )
