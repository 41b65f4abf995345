"""What to paste into a client of `cci serve` and `cci mcp`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Literal

from cci_plugins.common.settings import IsolationName

from . import console

ClientName = Literal["vscode", "claude"]
_NAME = "code-interpreter"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that is ready.

    Attributes:
        url: Its MCP endpoint.
        key: What clients send as `x-ms-apikey`, as it may be shown: the key itself when this
            command made it, else a word for it.
        isolation: The fence, in one line; empty when unknown.
    """

    url: str
    key: str = field(repr=False)
    isolation: str


def print_endpoint(endpoint: Endpoint, *, as_json: bool) -> None:
    """Print the endpoint as data, and what it means as words."""
    if as_json:
        facts = {"endpoint": endpoint.url, "key": endpoint.key, "isolation": endpoint.isolation}
        console.write_stdout(json.dumps(facts) + "\n")
        return
    if endpoint.isolation:
        console.print_message(f"isolation: {endpoint.isolation}")
    console.print_message(
        "for this package (LangChain, Semantic Kernel, cci run), in another terminal:"
    )
    console.write_stdout(format_environment(endpoint))
    console.print_message("for VS Code, in .vscode/mcp.json; it asks for the key once:")
    console.write_stdout(format_vscode_config(endpoint))
    console.print_message("press Ctrl-C to stop; sessions on this machine end with the server")


def format_environment(endpoint: Endpoint) -> str:
    """Shell lines that make this package use the server."""
    return (
        f'export AZURE_SESSION_POOL_MCP_ENDPOINT="{endpoint.url}"\n'
        f'export AZURE_SESSION_POOL_MCP_KEY="{endpoint.key}"\n'
    )


def format_vscode_config(endpoint: Endpoint) -> str:
    """`mcp.json` for VS Code; the key itself stays out of the file."""
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
    setup = {"inputs": [prompt], "servers": {_NAME: server}}
    return json.dumps(setup, indent=2) + "\n"


def format_stdio_config(
    client: ClientName, *, isolation: IsolationName | None, file_links: bool
) -> str:
    """Configuration of a client that starts `cci mcp` itself.

    The interpreter is named by its path: a client has seldom the PATH of a terminal.

    Args:
        client: Whose form.
        isolation: Option to pass on.
        file_links: Option to pass on; always for VS Code, which shows such links.
    """
    arguments = ["-m", "cci_plugins", "mcp"]
    if isolation is not None:
        arguments += ["--isolation", isolation]
    if file_links or client == "vscode":
        arguments.append("--file-links")
    server: dict[str, object] = {"command": sys.executable, "args": arguments}
    if client == "vscode":
        return json.dumps({"servers": {_NAME: {"type": "stdio"} | server}}, indent=2) + "\n"
    return json.dumps({"mcpServers": {_NAME: server}}, indent=2) + "\n"
