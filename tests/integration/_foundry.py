"""A fake Microsoft Foundry: its Resource Manager side, its agents, and their runs.

As in Foundry, an agent's tool names a connection, and the service itself calls the MCP server of
the connection, with its key. A script replaces the language model. Requests to Resource Manager
are checked against the official description.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cci_plugins.foundry import Project

from ._azure import ARM_TOKEN, POOL_ID, ROOT, Arm, Credential, listening

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
OTHER_SUBSCRIPTION = "00000000-0000-0000-0000-000000000002"
ACCOUNT_ID = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/group"
    "/providers/Microsoft.CognitiveServices/accounts/account"
)
PROJECT_ID = f"{ACCOUNT_ID}/projects/project"
MODEL = "a-deployment"
TOKEN = "planted-token-of-foundry"
SCOPE = "https://ai.azure.com/.default"
VERSION = "2025-12-01"
SPEC = next(
    (
        path
        for folder in (ROOT.parent / "shared", Path("/work/shared"))
        if (path := folder / f"specs/Microsoft.CognitiveServices.{VERSION}.schema.json").exists()
    ),
    None,
)
_EXPRESSION = "https://schema.management.azure.com/schemas/common/definitions.json"


@dataclass(frozen=True)
class Call:
    """A call that the scripted model wants to make."""

    tool: str
    arguments: dict[str, Any]


Turn = Generator[Call, str, str]
Model = Callable[[str], Turn]
"""A function of the question that yields calls, receives their output, and returns the answer."""


CHART = """
import csv
from collections import defaultdict
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
values = defaultdict(list)
for row in csv.DictReader(open({name!r})):
    if row[{value!r}] not in ("", "NA"):
        values[row[{key!r}]].append(float(row[{value!r}]))
means = {{key: sum(found) / len(found) for key, found in values.items()}}
plt.bar(means.keys(), means.values())
plt.savefig("chart.png")
print({{key: round(mean, 1) for key, mean in means.items()}})
"""
COLUMNS = {"penguins.csv": ("species", "body_mass_g")}


def analyst(prompt: str) -> Turn:
    """Follow the instructions: chart the CSV file of the question, or compute a sum."""
    given = re.search(r"environmentId (\S+)", prompt)
    if given is None:
        environment = json.loads((yield Call("launchShell", {})))["environmentId"]
    else:
        environment = given[1]
    code = "print(2 ** 100)"
    if (file := re.search(r"\w+\.csv", prompt)) is not None:
        key, value = COLUMNS.get(file[0], ("month", "sales"))
        code = CHART.format(name=f"/mnt/data/{file[0]}", key=key, value=value)
    arguments = {"environmentId": environment, "pythonCode": code}
    answer_text = yield Call("runPythonCodeInRemoteEnvironment", arguments)
    if answer_text.startswith("denied"):
        return "The user did not want it to run."
    return f"It is {json.loads(answer_text)['stdout'].strip()}."


class ToolFaultError(Exception):
    """The MCP server is unusable."""


@dataclass
class _Waiting:
    """A turn that waits for approval."""

    turn: Turn
    tool: dict[str, Any]
    call: Call
    request_id: str


@dataclass
class FakeToolbox:
    """A toolbox.

    Attributes:
        versions: The tools of each version.
        default: The version that agents use.
        pinned: Whether a new version does not become the default by itself.
    """

    versions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    default: str = ""
    pinned: bool = False


class ToolboxServer:
    """An MCP server of a toolbox, which puts the label of its server before each tool's name."""

    def __init__(self, inner: Any, label: str) -> None:
        self._inner, self._prefix = inner, f"{label}___"

    async def list_tools(self) -> Any:
        found = await self._inner.list_tools()
        for tool in found.tools:
            tool.name = f"{self._prefix}{tool.name}"
        return found

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        return await self._inner.call_tool(name.removeprefix(self._prefix), arguments)


@dataclass
class FakeFoundry:
    """One account with one project.

    Attributes:
        model: The scripted language model.
        connections: Bodies of the connections, by name.
        agents: The definitions of each agent's versions.
        asked: Number of requests of each operation.
        faults: Answers to return instead, by operation.
        prompts: The questions of users.
        wrong: Requests that do not match the description.
        listed: The tools that the MCP server listed last.
        toolboxes: The toolboxes, by name.
        pool: The session pool in Resource Manager.
        apps: Container apps of its resource group, and `app_secrets` of each.
    """

    model: Model
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    agents: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    faults: dict[str, Response] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    pool: Arm | None = None
    apps: list[dict[str, Any]] = field(default_factory=list)
    app_secrets: dict[str, str] = field(default_factory=dict)
    url: str = ""
    toolboxes: dict[str, FakeToolbox] = field(default_factory=dict)
    _waiting: dict[str, _Waiting] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)

    @property
    def writes(self) -> int:
        """The number of requests that changed a connection."""
        return self.asked["PUT connection"] + self.asked["DELETE connection"]

    def app(self) -> Starlette:
        api, every = "/api/projects/{project}", ["GET", "PUT", "POST", "DELETE"]
        return Starlette(
            routes=[
                Route(f"{api}/agents/{{name}}/versions", self._versions, methods=["POST"]),
                Route(f"{api}/agents/{{name}}", self._agent, methods=["DELETE"]),
                Route(f"{api}/agents/{{name}}/versions/{{v}}", self._version, methods=["DELETE"]),
                Route(f"{api}/toolboxes/{{name}}/versions", self._toolbox_versions, methods=every),
                Route(f"{api}/toolboxes/{{name}}/versions/{{v}}", self._toolbox_version),
                Route(f"{api}/toolboxes/{{name}}", self._toolbox, methods=[*every, "PATCH"]),
                Route(f"{api}/connections", self._list),
                Route(f"{api}/connections/{{name}}", self._get),
                Route(f"{api}/openai/v1/responses", self._responses, methods=["POST"]),
                Route("/{path:path}", self._arm, methods=every),
            ]
        )

    # Resource Manager

    async def _arm(self, request: Request) -> Response:
        path = request.url.path
        if path.lower().startswith(POOL_ID.lower()):
            assert self.pool is not None
            return await self.pool._answer(request)
        if request.headers.get("authorization") != f"Bearer {ARM_TOKEN}":
            return _arm_error(401, "InvalidAuthenticationToken", "The access token is invalid.")
        if "/providers/microsoft.app/containerapps" in path.lower():
            return self._container_apps(request)
        operation = f"{request.method} {self._kind(path)}"
        self.asked[operation] += 1
        if operation in self.faults:
            return self.faults[operation]
        return await self._resource(request, path)

    def _container_apps(self, request: Request) -> Response:
        version = request.query_params.get("api-version")
        self._expect(f"version {version} of an app", version == "2026-07-01")
        self.asked[f"{request.method} app"] += 1
        if operation := self.faults.get(f"{request.method} app"):
            return operation
        if request.method == "GET":
            return JSONResponse({"value": self.apps})
        value = [{"name": name, "value": secret} for name, secret in self.app_secrets.items()]
        return JSONResponse({"value": value})

    async def _resource(self, request: Request, path: str) -> Response:
        if path == "/subscriptions":
            return self._subscriptions(request)
        version = request.query_params.get("api-version")
        is_preview = request.method == "PUT" and "/connections/toolbox-" in path
        self._expect(
            f"version of {path}", version == ("2025-10-01-preview" if is_preview else VERSION)
        )
        if path.endswith("/accounts"):
            return JSONResponse({"value": [self._account()] if SUBSCRIPTION in path else []})
        if path == PROJECT_ID:
            endpoints = {"AI Foundry API": f"{self.url}/api/projects/project"}
            properties = {"endpoints": endpoints, "provisioningState": "Succeeded"}
            return JSONResponse({"id": path, "name": "project", "properties": properties})
        return await self._connection(request, path.rpartition("/")[2])

    def _subscriptions(self, request: Request) -> Response:
        """Return two pages. The second has the subscription with the account."""
        if "page" in request.query_params:
            return JSONResponse({"value": [{"subscriptionId": SUBSCRIPTION}]})
        following = f"{self.url}/subscriptions?api-version=2022-12-01&page=2"
        value = [{"subscriptionId": OTHER_SUBSCRIPTION}]
        return JSONResponse({"value": value, "nextLink": following})

    def _kind(self, path: str) -> str:
        parts = ("connections", "projects", "accounts")
        for part in parts:
            if f"/{part}/" in path:
                return part.removesuffix("s")
        return "accounts" if path.endswith("/accounts") else "subscriptions"

    def _account(self) -> dict[str, Any]:
        properties = {"endpoints": {"AI Foundry API": self.url}, "customSubDomainName": "account"}
        return {"id": ACCOUNT_ID, "name": "account", "kind": "AIServices", "properties": properties}

    async def _connection(self, request: Request, name: str) -> Response:
        if request.method == "GET":
            if name not in self.connections:
                return _arm_error(404, "ResourceNotFound", f"The connection {name} was not found.")
            return JSONResponse(self._without_keys(name))
        if request.method == "DELETE":
            removed = self.connections.pop(name, None)
            return Response(status_code=204 if removed is None else 200)
        body = await request.json()
        self.wrong += faults_of(name, body)
        self.connections[name] = body
        return JSONResponse(self._without_keys(name))

    def _without_keys(self, name: str) -> dict[str, Any]:
        """Return a connection as Azure does: without its credentials."""
        properties = {
            **self.connections[name]["properties"],
            "credentials": None,
            "group": "AzureAI",
        }
        kind = "Microsoft.CognitiveServices/accounts/projects/connections"
        id_ = f"{PROJECT_ID}/connections/{name}"
        return {"id": id_, "name": name, "type": kind, "properties": properties}

    # toolboxes

    async def _toolbox_versions(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body, name = await request.json(), request.path_params["name"]
        known = {"tools", "description", "metadata", "skills", "policies"}
        self._expect(f"toolbox: {set(body)}", set(body) <= known)
        for tool in body["tools"]:
            self._expect("a key in a toolbox", "headers" not in tool)
        box = self.toolboxes.setdefault(name, FakeToolbox())
        number = str(len(box.versions) + 1)
        box.versions[number] = body["tools"]
        if not (box.pinned and box.default):
            box.default = number
        return self._show_version(name, number)

    async def _toolbox_version(self, request: Request) -> Response:
        return self._refusal(request) or self._show_version(
            request.path_params["name"], request.path_params["v"]
        )

    def _show_version(self, name: str, number: str) -> Response:
        box = self.toolboxes.get(name)
        if box is None or number not in box.versions:
            return _error(404, "not_found", f"Toolbox {name} not found.")
        facts = {"metadata": {}, "id": f"{name}:{number}", "name": name, "version": number}
        return JSONResponse({**facts, "created_at": 1_790_000_000, "tools": box.versions[number]})

    async def _toolbox(self, request: Request) -> Response:
        name = request.path_params["name"]
        if (refusal := self._refusal(request)) is not None:
            return refusal
        if name not in self.toolboxes:
            return _error(404, "not_found", f"Toolbox {name} not found.")
        box = self.toolboxes[name]
        if request.method == "DELETE":
            del self.toolboxes[name]
            return Response(status_code=204)
        if request.method == "PATCH":
            box.default = (await request.json())["default_version"]
        return JSONResponse({"id": name, "name": name, "default_version": box.default})

    def _find_stored_tool(self, tool: dict[str, Any]) -> dict[str, Any]:
        """Return the tool of a toolbox that an agent's tool leads to. The agent signs in itself."""
        connection = self.connections.get(tool["project_connection_id"].rpartition("/")[2], {})
        properties = connection.get("properties", {})
        signed_in = properties.get("authType") == "AgenticIdentityToken"
        if not signed_in or properties.get("audience") != "https://ai.azure.com":
            raise ToolFaultError("Failed to enumerate tools from remote server: 401 (Unauthorized)")
        self._expect("target", properties["target"] == tool["server_url"])
        name = re.search(r"/toolboxes/([^/]+)/mcp\?api-version=v1$", tool["server_url"])
        assert name is not None
        box = self.toolboxes[name[1]]
        return box.versions[box.default][0]

    # the project

    async def _list(self, request: Request) -> Response:
        return self._refusal(request) or JSONResponse(
            {"value": [self._read_connection(name) for name in self.connections]}
        )

    async def _get(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.connections:
            return _error(404, "NotFound", f"Connection {name} does not exist.")
        return self._refusal(request) or JSONResponse(self._read_connection(name))

    def _read_connection(self, name: str) -> dict[str, Any]:
        """Return a connection as the project does, with another name of the category."""
        return {
            "name": name,
            "id": f"{PROJECT_ID}/connections/{name}",
            "type": "RemoteTool_Preview",
            "target": self.connections[name]["properties"]["target"],
            "isDefault": False,
            "credentials": {"type": "CustomKeys"},
            "metadata": self.connections[name]["properties"].get("metadata", {}),
        }

    async def _versions(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        if "POST agent" in self.faults:
            return self.faults["POST agent"]
        name, body = request.path_params["name"], await request.json()
        definition = body["definition"]
        self._expect(f"agent: {set(body)}", set(body) <= {"definition", "metadata", "description"})
        known = {"kind", "model", "instructions", "tools"}
        self._expect(f"definition: {set(definition)}", set(definition) <= known)
        self._expect("definition", definition["kind"] == "prompt" and definition["model"] == MODEL)
        for tool in definition["tools"]:
            self._check_tool(tool)
        versions = self.agents.setdefault(name, {})
        version = str(len(versions) + 1)
        versions[version] = definition
        return JSONResponse(
            {
                "object": "agent.version",
                "id": f"{name}:{version}",
                "name": name,
                "version": version,
                "metadata": {},
                "created_at": 1_790_000_000,
                "definition": definition,
            }
        )

    def _check_tool(self, tool: dict[str, Any]) -> None:
        wanted = {
            "type",
            "server_label",
            "server_url",
            "project_connection_id",
            "allowed_tools",
            "require_approval",
        }
        if "/toolboxes/" in tool["server_url"]:
            wanted -= {"allowed_tools"}
        self._expect(f"tool: {set(tool)}", set(tool) == wanted)
        self._expect("type", tool["type"] == "mcp")
        self._expect("label", bool(re.fullmatch(r"[A-Za-z0-9_-]+", tool["server_label"])))
        self._expect("a key in the agent", "headers" not in tool)

    async def _agent(self, request: Request) -> Response:
        return self._remove(request, self.agents, request.path_params["name"])

    async def _version(self, request: Request) -> Response:
        versions = self.agents.get(request.path_params["name"], {})
        return self._remove(request, versions, request.path_params["v"])

    def _remove(self, request: Request, those: dict[str, Any], name: str) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        if those.pop(name, None) is None:
            return _error(404, "not_found", f"Agent {name} not found.")
        return JSONResponse({"object": "agent.deleted", "name": name, "deleted": True})

    def _refusal(self, request: Request) -> Response | None:
        """Check the token and the API version, as every operation of the project does."""
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return _error(401, "unauthorized", "Access denied due to an invalid token.")
        is_openai = "/openai/v1/" in request.url.path
        version = request.query_params.get("api-version")
        self._expect(f"version {version}", version == (None if is_openai else "v1"))
        return None

    # runs

    async def _responses(self, request: Request) -> Response:
        self.asked["POST response"] += 1
        if (refusal := self._refusal(request)) is not None:
            return refusal
        if "POST response" in self.faults:
            return self.faults["POST response"]
        body = await request.json()
        reference = body.pop("agent_reference")
        given, previous = body.pop("input"), body.pop("previous_response_id", None)
        self._expect(f"response: {set(body)}", body == {})
        self._expect("reference", reference["type"] == "agent_reference")
        definition = self.agents.get(reference["name"], {}).get(reference["version"])
        if definition is None:
            return _error(404, "not_found", f"Agent {reference['name']} not found.")
        try:
            return JSONResponse(await self._turn(definition, given, previous))
        except ToolFaultError as error:
            return _error(400, "tool_user_error", str(error))

    async def _turn(
        self, definition: dict[str, Any], given: Any, previous: str | None
    ) -> dict[str, Any]:
        output: list[dict[str, Any]] = []
        if isinstance(given, str):
            if previous is not None:
                self._expect(f"goes on from {previous}", previous in self._ended)
            self.prompts.append(given)
            tool = definition["tools"][0]
            async with self._server(tool) as server:
                tools = (await server.list_tools()).tools
                self.listed = [one.name for one in tools]
                output.append({"type": "mcp_list_tools", **_of(tool), "tools": []})
                turn = self.model(given)
                return await self._go_on(server, tool, turn, next_of(turn, None), output)
        waiting = self._waiting.pop(str(previous))
        (answer,) = given
        self._expect("answer", set(answer) <= {"type", "approval_request_id", "approve", "reason"})
        self._expect("answer", answer["type"] == "mcp_approval_response")
        self._expect("answer", answer["approval_request_id"] == waiting.request_id)
        async with self._server(waiting.tool) as server:
            if answer["approve"]:
                answer_text = await self._call(server, waiting.tool, waiting.call, output)
            else:
                answer_text = f"denied: {answer.get('reason')}"
            step = next_of(waiting.turn, answer_text)
            return await self._go_on(server, waiting.tool, waiting.turn, step, output)

    async def _go_on(
        self,
        server: Any,
        tool: dict[str, Any],
        turn: Turn,
        step: Call | str,
        output: list[dict[str, Any]],
    ) -> dict[str, Any]:
        """Make the model's calls until it answers or a call needs approval."""
        while isinstance(step, Call):
            if needs_approval(tool["require_approval"], step.tool):
                request = {
                    "type": "mcp_approval_request",
                    **_of(tool),
                    "name": step.tool,
                    "arguments": json.dumps(step.arguments),
                }
                response = _response([*output, request])
                self._waiting[response["id"]] = _Waiting(turn, tool, step, request["id"])
                return response
            step = next_of(turn, await self._call(server, tool, step, output))
        part = {"type": "output_text", "text": step, "annotations": _links(step)}
        message = {
            "type": "message",
            "id": f"msg_{uuid4().hex}",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        response = _response([*output, message])
        self._ended.add(response["id"])
        return response

    async def _call(
        self, server: Any, tool: dict[str, Any], call: Call, output: list[dict[str, Any]]
    ) -> str:
        allowed = tool.get("allowed_tools", self.listed)
        if call.tool not in allowed or call.tool not in self.listed:
            raise ToolFaultError(f"Tool {call.tool} is not allowed.")
        text, failed = await _call_tool(server, call)
        output.append(
            {
                "type": "mcp_call",
                **_of(tool),
                "name": call.tool,
                "arguments": json.dumps(call.arguments),
                "output": text,
                "error": {"type": "mcp_tool_execution_error", "content": [{"text": text}]}
                if failed
                else None,
                "status": "failed" if failed else "completed",
            }
        )
        return text

    @asynccontextmanager
    async def _server(self, tool: dict[str, Any]):
        """Open the MCP server of the tool's connection with its key."""
        import httpx
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client

        stored = self._find_stored_tool(tool) if "/toolboxes/" in tool["server_url"] else None
        name = (stored or tool)["project_connection_id"].rpartition("/")[2]
        if name not in self.connections:
            raise ToolFaultError(f"Connection '{name}' can't be found in this workspace")
        properties = self.connections[name]["properties"]
        headers = properties["credentials"]["keys"]
        async with (
            _translate_refusal(properties["target"]),
            httpx.AsyncClient(headers=headers, timeout=100) as http,  # as long as Foundry waits
        ):
            async with streamable_http_client(properties["target"], http_client=http) as streams:
                async with ClientSession(streams[0], streams[1]) as session:
                    await session.initialize()
                    label = None if stored is None else stored["server_label"]
                    yield session if label is None else ToolboxServer(session, label)

    def _expect(self, what: str, holds: object) -> None:
        if not holds:
            self.wrong.append(what)


async def _call_tool(server: Any, call: Call) -> tuple[str, bool]:
    """Return the output of a call, and whether it failed."""
    from mcp.shared.exceptions import McpError

    try:
        with anyio.fail_after(100):
            result = await server.call_tool(call.tool, call.arguments)
    except McpError as error:
        return str(error), True
    text = "\n".join(part.text for part in result.content if part.type == "text")
    return text, bool(result.isError)


@asynccontextmanager
async def _translate_refusal(url: str):
    """Translate a refusal of the server into Foundry's error text."""
    import httpx

    try:
        yield
    except BaseExceptionGroup as group:
        statuses, rest = group.split(httpx.HTTPStatusError)
        faults, _ = group.split(ToolFaultError)
        if statuses is not None and rest is None:
            error: Any = statuses
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise ToolFaultError(
                f"Failed to enumerate tools from remote server: {url}. Details: Response status "
                f"code does not indicate success: {error.response.status_code} "
                f"({error.response.reason_phrase})."
            ) from None
        if faults is not None:
            fault: Any = faults
            while isinstance(fault, BaseExceptionGroup):
                fault = fault.exceptions[0]
            raise fault from None
        raise


def next_of(turn: Turn, answer_text: str | None) -> Call | str:
    """Return the model's next call, or its answer."""
    try:
        return next(turn) if answer_text is None else turn.send(answer_text)
    except StopIteration as stop:
        return str(stop.value)


def needs_approval(policy: Any, tool: str) -> bool:
    """Return whether a call needs approval. It does unless the policy excludes it."""
    if isinstance(policy, str):
        return policy == "always"
    return tool not in policy.get("never", {}).get("tool_names", [])


def _of(tool: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"mcp_{uuid4().hex}", "server_label": tool["server_label"]}


def _links(text: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "url_citation",
            "url": match[0],
            "title": "a page",
            "start_index": match.start(),
            "end_index": match.end(),
        }
        for match in re.finditer(r"https://\S+", text)
    ]


def _response(output: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"resp_{uuid4().hex}",
        "object": "response",
        "created_at": 1_790_000_000,
        "model": MODEL,
        "status": "completed",
        "error": None,
        "output": output,
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
    }


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message, "param": None}}, status)


def _arm_error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status)


def faults_of(name: str, body: dict[str, Any]) -> list[str]:
    """Return the differences of a connection from the official description."""
    if SPEC is None:
        return []
    from jsonschema import Draft4Validator

    if body["properties"]["authType"] == "AgenticIdentityToken":  # only in a preview
        allowed = {"category", "authType", "audience", "target", "metadata"}
        return [f"unknown: {set(body['properties']) - allowed}"] * (
            not set(body["properties"]) <= allowed
        )
    described = _described()
    kind = "Microsoft.CognitiveServices/accounts/projects/connections"
    schema = {
        **described["resourceDefinitions"]["accounts_projects_connections"],
        "definitions": described["definitions"],
    }
    whole = {**body, "name": name, "type": kind, "apiVersion": VERSION}
    found = [error.message for error in Draft4Validator(schema).iter_errors(whole)]
    base = described["definitions"]["ConnectionPropertiesV2"]
    known = set(base["properties"])
    for form in base["oneOf"]:
        if body["properties"]["authType"] in form["properties"]["authType"]["enum"]:
            known |= set(form["properties"])
    unknown = set(body["properties"]) - known
    return found + [f"unknown: {unknown}"] * bool(unknown or set(body) != {"properties"})


@cache
def _described() -> dict[str, Any]:
    assert SPEC is not None
    found: dict[str, Any] = _offline(json.loads(SPEC.read_text()))
    return found


def _offline(value: Any) -> Any:
    """Replace references to template expressions, which requests do not have, by a pattern."""
    if isinstance(value, dict):
        if str(value.get("$ref", "")).startswith(_EXPRESSION):
            return {"type": "string", "pattern": r"^\[([^\[].*)?\]$"}
        return {name: _offline(item) for name, item in value.items()}
    return [_offline(item) for item in value] if isinstance(value, list) else value


@dataclass
class Running:
    """A project that is served over HTTPS.

    Attributes:
        fake: Its state.
        url: Address of Resource Manager and of the project.
        ca: The authority's certificate, as a file.
        credential: The sign-in.
    """

    fake: FakeFoundry
    url: str
    ca: Path
    credential: Credential = field(repr=False)

    @property
    def endpoint(self) -> str:
        return f"{self.url}/api/projects/project"


@contextmanager
def serving_foundry(folder: Path, model: Model) -> Iterator[Running]:
    """Serve a new project. Clients must trust `ca`."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    ca, key, chain = folder / "ca.pem", folder / "key.pem", folder / "chain.pem"
    authority.cert_pem.write_to_path(str(ca))
    certificate.private_key_pem.write_to_path(str(key))
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    fake = FakeFoundry(model)
    credential = Credential()
    credential.tokens[SCOPE] = TOKEN
    with listening(fake.app(), ssl_keyfile=str(key), ssl_certfile=str(chain)) as url:
        fake.url = url.replace("http://", "https://")
        yield Running(fake, fake.url, ca, credential)
    assert fake.wrong == []


@contextmanager
def running_foundry(
    folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch, *, trusted: bool = True
) -> Iterator[Running]:
    """Serve a new project to a test that has no settings of this machine.

    Args:
        folder: The test's folder, which becomes the current one.
        model: The model behind the project.
        monkeypatch: Undoes the changes after the test.
        trusted: Whether every client of the test trusts the server, not only those given `ca`.
    """
    for name in [name for name in os.environ if name.startswith(("AZURE_", "MCP_", "FOUNDRY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(folder)
    with serving_foundry(folder, model) as found:
        if trusted:
            monkeypatch.setenv("SSL_CERT_FILE", str(found.ca))
        yield found


def project_of(running: Running) -> Project:
    """Return the project as a user of the package names it."""
    return Project(
        running.endpoint,
        credential=running.credential,
        arm_endpoint=running.url,
        ca_file=running.ca,
    )
