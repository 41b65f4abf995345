"""`cci mcp`: a code interpreter for one MCP client, over standard input and output."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer

from cci_plugins.common.limits import Limits
from cci_plugins.common.settings import IsolationName
from cci_plugins.core.interpreter import build_file_options, build_pool
from cci_plugins.errors import ConfigurationError
from cci_plugins.files.file_transfer import FileOptions
from cci_plugins.pools.base import SessionPool

from . import console
from .client_setup import ClientName, format_stdio_config
from .run import load_settings
from .serve import FileLinksOption, cancel_on_signals


def mcp(
    *,
    print_config: Annotated[
        ClientName | None,
        typer.Option(
            help="Print what to paste into a client, and end: vscode for .vscode/mcp.json; claude "
            "for Claude Desktop, Claude Code, Cursor and others that know mcpServers."
        ),
    ] = None,
    file_links: FileLinksOption = False,
    isolation: Annotated[
        IsolationName | None, typer.Option(help="Fence of the embedded pool.")
    ] = None,
) -> None:
    """Answer an MCP client on standard input and output until it leaves.

    The client starts this command itself: --print-config prints how. Its tool execute_code has
    one session, which ends with the client. The code runs in the embedded pool on this machine, or
    in the session pool that the environment configures.
    """
    if print_config is not None:
        console.write_stdout(
            format_stdio_config(print_config, isolation=isolation, file_links=file_links)
        )
        return
    settings = load_settings(isolation)
    settings = settings.model_copy(update={"ready_sessions": 1})
    _check_installed()
    anyio.run(
        _serve_client,
        build_pool(settings),
        settings.limits(),
        build_file_options(settings),
        file_links,
    )


def _check_installed() -> None:
    """Say what is missing before a client waits for an answer.

    Raises:
        ConfigurationError: The extra `serve` is not installed.
    """
    from importlib.util import find_spec

    if find_spec("mcp") is None:
        raise ConfigurationError(
            "cci mcp needs mcp", hint='pip install "cci-plugins[cli,local,serve]"'
        )


async def _serve_client(
    pool: SessionPool,
    limits: Limits,
    files: FileOptions,
    file_links: bool,  # noqa: FBT001 - anyio.run passes by position
) -> None:
    from cci_plugins.server import serve_stdio

    async with pool:
        with cancel_on_signals():
            await serve_stdio(pool, limits=limits, files=files, file_links=file_links)
