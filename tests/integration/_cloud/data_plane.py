"""A gate in front of a pool's data plane that requires a role, once it is known everywhere."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import JSONResponse

from . import values
from .cloud import EXECUTOR, Cloud

App = Callable[[Any, Any, Any], Awaitable[None]]


def role_gate(cloud: Cloud, app: App) -> App:
    """Return the application behind a check of the role."""

    async def gate(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", []))
        if scope["type"] == "http" and headers.get(b"authorization"):
            pools = cloud.of_type("Microsoft.App/sessionPools")
            if not pools or not cloud.has_role(values.USER, EXECUTOR, pools[0]["id"]):
                error = {"code": "Forbidden", "message": "The role is missing."}
                await JSONResponse({"error": error}, 403)(scope, receive, send)
                return
        await app(scope, receive, send)

    return gate
