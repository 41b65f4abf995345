"""`cci mcp --install`: write the configuration of an MCP client."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from cci_plugins.errors import ConfigurationError, FileTransferError

from . import console

ClientName = Literal["claude-desktop", "claude-code", "cursor", "vscode"]
SERVER_NAME = "code-interpreter"


def get_config_path(client: ClientName) -> Path:
    """Return the file in which a client looks for its MCP servers.

    Claude Desktop has one file for each user. The others read a file of the folder that is
    opened in them, which is the current folder here.

    Sources: https://modelcontextprotocol.io/docs/develop/connect-local-servers,
    https://code.claude.com/docs/en/mcp, https://cursor.com/docs/context/mcp,
    https://code.visualstudio.com/docs/copilot/customization/mcp-servers
    """
    if client == "claude-desktop":
        return _get_user_settings_folder() / "Claude" / "claude_desktop_config.json"
    names = {"claude-code": ".mcp.json", "cursor": ".cursor/mcp.json", "vscode": ".vscode/mcp.json"}
    return Path(names[client])


def install(client: ClientName, server: dict[str, Any], *, is_confirmed: bool) -> None:
    """Add the server to a client's file, after showing the change and asking for consent.

    The file's other servers and settings stay.

    Args:
        client: Client that is to start the server.
        server: Entry of the server, with its command and arguments.
        is_confirmed: Whether the user has consented already.

    Raises:
        ConfigurationError: Nobody can be asked, or the file is not plain JSON.
        FileTransferError: The file cannot be read or written.
    """
    path = get_config_path(client)
    settings = _read(path, client)
    servers = settings.setdefault("servers" if client == "vscode" else "mcpServers", {})
    if not isinstance(servers, dict):
        raise ConfigurationError(
            f"{path} has a list of servers that is not an object",
            hint=f"correct it, or paste what this prints: cci mcp --print-config {client}",
        )
    if servers.get(SERVER_NAME) == server:
        console.print_message(f"{path} has this server already")
        return
    change = "replace" if SERVER_NAME in servers else "add"
    servers[SERVER_NAME] = server
    entry = json.dumps({SERVER_NAME: server}, indent=2)
    console.print_message(f"{change} this server in {path.absolute()}:\n{entry}", style="")
    if not is_confirmed and not _ask():
        console.print_message("nothing was written")
        return
    _write(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    console.print_message(f"wrote {path}. Restart {client}, or reload its MCP servers")


def _ask() -> bool:
    if not console.is_interactive():
        raise ConfigurationError(
            "cannot ask before writing, because this is not a terminal", hint="add --yes"
        )
    return console.confirm("write it?")


def _get_user_settings_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _read(path: Path, client: ClientName) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise FileTransferError(f"cannot read {path}: {error}") from error
    try:
        settings = json.loads(text) if text.strip() else {}
    except ValueError as error:
        settings = error
    if not isinstance(settings, dict):
        raise ConfigurationError(
            f"{path} is not plain JSON, so it is left as it is",
            hint=f"paste what this prints: cci mcp --print-config {client}",
        )
    return settings


def _write(path: Path, text: str) -> None:
    """Write a file in one step, through a link, and with the mode of an existing one."""
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(dir=target.parent, prefix=".cci-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(part).chmod(target.stat().st_mode & 0o777 if target.exists() else 0o644)
        Path(part).replace(target)
    except OSError as error:
        raise FileTransferError(f"cannot write {path}: {error.strerror}") from error
