"""The door for everything else: MCP and the sessions' REST API over any session pool."""

from .app import create_app
from .listening import serve

__all__ = ["create_app", "serve"]
