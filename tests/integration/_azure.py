"""Fakes of Resource Manager and Entra, as far as a session pool needs them.

Every request and answer is validated by the official API description, if there is a copy of it.
"""

import json
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ROOT = Path(__file__).parents[2]
SPEC = next(
    (
        path
        for folder in (ROOT.parent / "shared", Path("/work/shared"))
        if (path := folder / "specs/SessionPools.2025-10-02-preview.openapi.json").exists()
    ),
    None,
)
POOL_ID = (
    "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/group"
    "/providers/Microsoft.App/sessionPools/pool"
)
ARM_TOKEN = "planted-token-of-arm"


class AccessToken(NamedTuple):
    """Token with the fields of azure-core's."""

    token: str
    expires_on: int


class Credential:
    """Credential that returns a token for each scope and counts the calls."""

    def __init__(self, data_plane: str = "planted-token-of-entra") -> None:
        self.tokens = {
            "https://dynamicsessions.io/.default": data_plane,
        }
        self.asked: Counter[str] = Counter()

    def get_token(self, *scopes: str) -> AccessToken:
        assert len(scopes) == 1
        self.asked[scopes[0]] += 1
        return AccessToken(self.tokens.get(scopes[0], ARM_TOKEN), int(time.time()) + 3600)


class Arm:
    """One session pool in Resource Manager."""

    def __init__(self, properties: dict[str, Any], key: Any) -> None:
        self.properties = properties
        self.asked: Counter[str] = Counter()
        self.failures: list[Response] = []
        self._key = key
        self._spec = None if SPEC is None else json.loads(SPEC.read_text())
        self.app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST"])])

    async def _answer(self, request: Request) -> Response:
        action = request.url.path.removeprefix(POOL_ID).strip("/").lower()
        self.asked[action or "get"] += 1
        if self.failures:
            return self.failures.pop()
        if request.headers.get("authorization") != f"Bearer {ARM_TOKEN}":
            return _error(401, "InvalidAuthenticationToken", "The access token is invalid.")
        self._check_request(request)
        assert await request.body() == b""
        if request.method == "GET" and not action:
            body = {"id": POOL_ID, "location": "eastus", "properties": self.properties}
            return self._checked(request, body)
        if self.properties.get("mcpServerSettings") is None:
            message = "Session pool 'pool' does not have MCP Server enabled."
            return _error(400, "SessionMCPServerNotEnabled", message)
        if action == "fetchmcpservercredentials":
            return self._checked(request, {"apiKey": self._key()})
        return _error(404, "NotFound", "The action does not exist.")

    def _operation(self, request: Request) -> dict[str, Any]:
        for path, operations in self._spec["paths"].items():
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))
            if re.fullmatch(pattern, request.url.path, re.IGNORECASE):
                operation: dict[str, Any] = operations[request.method.lower()]
                return operation
        raise AssertionError(f"no such operation: {request.method} {request.url.path}")

    def _check_request(self, request: Request) -> None:
        if self._spec is not None:
            assert request.query_params["api-version"] == self._spec["info"]["version"]
            assert set(request.query_params) == {"api-version"}
            self._operation(request)

    def _checked(self, request: Request, body: dict[str, Any]) -> Response:
        if self._spec is not None:
            from jsonschema import Draft4Validator

            name = self._operation(request)["responses"]["200"]["schema"]["$ref"].rpartition("/")[2]
            schema = {"definitions": self._spec["definitions"], **self._spec["definitions"][name]}
            Draft4Validator(_local(schema)).validate(_without_nulls(body))
        return JSONResponse(body)


def _local(value: Any) -> Any:
    """Return a schema without references to other files, which the tests have no copies of."""
    if isinstance(value, dict):
        if str(value.get("$ref", "")).startswith(".."):
            return {}
        return {name: _local(item) for name, item in value.items()}
    return [_local(item) for item in value] if isinstance(value, list) else value


def _without_nulls(value: Any) -> Any:
    """Return an answer without nulls, which the service sends but the description forbids."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return value


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status)


@contextmanager
def listening(app: Any, **options: Any):
    """Serve an application on loopback and yield its URL."""
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            ready.set()

    server = Server(
        uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1, **options)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(30)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
