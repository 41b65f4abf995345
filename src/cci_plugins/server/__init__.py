"""The server: MCP and the REST API of session pools over any session pool."""

from cci_plugins.errors import ConfigurationError

try:
    from .app import create_app
    from .emulation import FAULTS, Emulation, Emulator, Faults
    from .listening import serve, serve_app
    from .mcp.environments import SignedEnvironments
    from .mcp.stdio import serve_stdio
    from .sign_in import EntraSignIn
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"the server needs {missing.name}, which is not installed",
        hint='pip install "cci-plugins[serve]"',
    ) from missing

__all__ = [
    "FAULTS",
    "Emulation",
    "Emulator",
    "EntraSignIn",
    "Faults",
    "SignedEnvironments",
    "create_app",
    "serve",
    "serve_app",
    "serve_stdio",
]
