"""Configuration that users paste into clients of `cci serve` and `cci mcp`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cci_plugins.common.settings import IsolationName

from . import console
from .client_install import SERVER_NAME

PrintedClientName = Literal["claude", "claude-desktop", "claude-code", "cursor", "vscode"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that is ready for requests.

    Attributes:
        url: URL of its MCP endpoint.
        key: Key that clients send as `x-ms-apikey`. It is the key itself if this command
            generated it, otherwise a placeholder.
        isolation: Description of the isolation in one line. Empty when unknown.
        needs_key: Whether the server checks the key.
    """

    url: str
    key: str = field(repr=False)
    isolation: str
    needs_key: bool = True


def print_endpoint(endpoint: Endpoint, *, as_json: bool) -> None:
    """Print how to connect to a server: data on stdout, explanations on stderr."""
    if as_json:
        facts = {"endpoint": endpoint.url, "key": endpoint.key, "isolation": endpoint.isolation}
        console.write_stdout(json.dumps(facts) + "\n")
        return
    if endpoint.isolation:
        console.print_message(f"isolation: {endpoint.isolation}")
    console.print_message(
        "to use it with this package (LangChain, Semantic Kernel, cci run), in another terminal:"
    )
    console.write_stdout(format_environment(endpoint.url, endpoint.key))
    if not endpoint.needs_key:
        console.print_message("this package wants to send some key, which the server ignores")
    console.print_message(
        "to use it with VS Code, put this into .vscode/mcp.json"
        + (". VS Code asks for the key once:" if endpoint.needs_key else ":")
    )
    console.write_stdout(format_vscode_config(endpoint))
    print_stop_message()


def print_stop_message() -> None:
    """Print how to stop the server. This is the last message before it waits."""
    console.print_message("press Ctrl-C to stop the server and end its sessions on this machine")


def format_environment(url: str, key: str) -> str:
    """Return shell lines that make this package use the server.

    Args:
        url: URL of the server's MCP endpoint.
        key: Key, or its placeholder.
    """
    return (
        f'export AZURE_SESSION_POOL_MCP_ENDPOINT="{url}"\n'
        f'export AZURE_SESSION_POOL_MCP_KEY="{key}"\n'
    )


def format_vscode_config(endpoint: Endpoint) -> str:
    """Return an `mcp.json` for VS Code that does not contain the key."""
    if not endpoint.needs_key:
        keyless = {"servers": {SERVER_NAME: {"type": "http", "url": endpoint.url}}}
        return json.dumps(keyless, indent=2) + "\n"
    name = "code-interpreter-key"
    prompt = {
        "type": "promptString",
        "id": name,
        "description": "Key of the code interpreter",
        "password": True,
    }
    server = {
        "type": "http",
        "url": endpoint.url,
        "headers": {"x-ms-apikey": f"${{input:{name}}}"},
    }
    setup = {"inputs": [prompt], "servers": {SERVER_NAME: server}}
    return json.dumps(setup, indent=2) + "\n"


def build_stdio_server(
    client: PrintedClientName,
    *,
    isolation: IsolationName | None = None,
    file_links: bool = False,
    all_tools: bool = False,
    mount: Path | None = None,
    mount_hidden: bool = False,
    wait: float | None = None,
    env_file: Path | None = None,
) -> dict[str, Any]:
    """Return the entry of a server that its client starts as `cci mcp`.

    It contains the interpreter's path, since a client rarely has the `PATH` of a terminal.

    Args:
        client: Client whose format is used.
        isolation: Value of `--isolation` in the command, or None to leave the option out.
        file_links: Whether the command has `--file-links`. For VS Code, which shows such
            links, it always has.
        all_tools: Whether the command has `--all-tools`.
        mount: Folder of `--mount`, or None. Its whole path is used.
        mount_hidden: Whether the command has `--mount-hidden`.
        wait: Value of `--wait` in the command, or None to leave the option out.
        env_file: File of `--env-file` in the command, or None to leave the option out.
    """
    arguments = ["-m", "cci_plugins", "mcp"]
    if isolation is not None:
        arguments += ["--isolation", isolation]
    if file_links or client == "vscode":
        arguments.append("--file-links")
    if all_tools:
        arguments.append("--all-tools")
    if mount is not None:
        arguments += ["--mount", str(mount.absolute())]
    if mount_hidden:
        arguments.append("--mount-hidden")
    if wait is not None:
        arguments += ["--wait", f"{wait:g}"]
    if env_file is not None:
        arguments += ["--env-file", str(env_file.resolve())]
    server: dict[str, Any] = {"command": sys.executable, "args": arguments}
    return {"type": "stdio"} | server if client == "vscode" else server


def format_stdio_config(client: PrintedClientName, server: dict[str, Any]) -> str:
    """Return the configuration of a client that starts `cci mcp` itself.

    Args:
        client: Client whose format is used.
        server: Entry of the server.
    """
    servers = "servers" if client == "vscode" else "mcpServers"
    return json.dumps({servers: {SERVER_NAME: server}}, indent=2) + "\n"
