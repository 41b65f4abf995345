"""`cci mcp`: a code interpreter for one MCP client, over standard input and output."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer

from cci_plugins.core.interpreter import build_file_options, build_pool
from cci_plugins.errors import ConfigurationError

from . import console
from .client_setup import ClientName, format_stdio_config
from .run import IsolationOption, load_settings
from .serve import FileLinksOption, serve_until_signal
from .settings_file import SettingsFileOption


def mcp(
    *,
    print_config: Annotated[
        ClientName | None,
        typer.Option(
            help="Print the configuration of a client and exit: vscode for .vscode/mcp.json, or "
            "claude for Claude Desktop, Claude Code, Cursor and other clients with mcpServers."
        ),
    ] = None,
    file_links: FileLinksOption = False,
    isolation: IsolationOption = None,
    env_file: SettingsFileOption = None,
) -> None:
    """Serve one MCP client on standard input and output until it disconnects.

    The client starts this command itself. Use --print-config to configure the client. The tool
    execute_code has one session, which ends with the client. The code runs in the embedded pool
    on this machine, or in the session pool that the environment configures.
    """
    if print_config is not None:
        console.write_stdout(
            format_stdio_config(
                print_config, isolation=isolation, file_links=file_links, env_file=env_file
            )
        )
        return
    settings = load_settings(isolation)
    settings = settings.model_copy(update={"ready_sessions": 1})
    _check_installed()
    pool, files = build_pool(settings), build_file_options(settings)

    async def serve_client() -> None:
        from cci_plugins.server import serve_stdio

        await serve_stdio(pool, limits=settings.limits(), files=files, file_links=file_links)

    anyio.run(serve_until_signal, pool, serve_client)


def _check_installed() -> None:
    """Check that the extra `serve` is installed, before the client waits for an answer."""
    from importlib.util import find_spec

    if find_spec("mcp") is None:
        raise ConfigurationError(
            "cci mcp needs mcp", hint='pip install "cci-plugins[cli,local,serve]"'
        )
