"""Microsoft Foundry in the fake cloud: accounts that are deleted softly, models, projects."""

import functools
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import values
from .specs import FOLDER, NotAsDescribedError, check_version, find_unknown, make_offline

ACCOUNTS = "microsoft.cognitiveservices/accounts"
PROJECTS, MODELS = f"{ACCOUNTS}/projects", f"{ACCOUNTS}/deployments"
CONNECTIONS = f"{PROJECTS}/connections"
_SPEC = "Microsoft.CognitiveServices.2025-12-01.schema.json"
_DELETED = re.compile(
    r"/subscriptions/[^/]+/providers/microsoft\.cognitiveservices"
    r"(?:/locations/(?P<location>[^/]+)/resourcegroups/(?P<group>[^/]+))?"
    r"/deletedaccounts(?:/(?P<name>[^/]+))?"
)
_MODELS = re.compile(
    r"/subscriptions/[^/]+/providers/microsoft\.cognitiveservices/locations/([^/]+)/models"
)


def offer(name: str, version: str = "1", ends: str = "2030-01-01", **more: Any) -> dict[str, Any]:
    """Return a model as Azure lists it."""
    skus = [{"name": one} for one in more.pop("skus", ("GlobalStandard", "DataZoneStandard"))]
    model = {
        "format": "OpenAI",
        "name": name,
        "version": version,
        "skus": skus,
        "capabilities": {"chatCompletion": "true", "responses": "true"},
        "deprecation": {"inference": f"{ends}T00:00:00Z"},
        "lifecycleStatus": "GenerallyAvailable",
        **more,
    }
    return {"kind": "AIServices", "skuName": "S0", "model": model}


class Foundry:
    """The provider Microsoft.CognitiveServices, and the agents of its projects.

    Attributes:
        offered: The models of each region, by its short name.
        deleted: Accounts that were deleted and not purged, by their ids in lower case.
        agents: Names of the agents of every project. None refuses to list them.
        endpoint: Address of the projects' own API. Resource Manager's own when empty.
        busy: Number of changes below an account that are refused because of another one.
        on_connection: Called with the name and the body of each connection.
        asked: Number of requests to the projects' own API.
    """

    def __init__(self, keep: Callable[..., dict[str, Any]]) -> None:
        models = [offer("gpt-5.6-luna", "2026-07-09", "2028-01-11"), offer("gpt-5.4-mini")]
        self.offered = {"eastus": models, "swedencentral": models[1:]}
        self.deleted: dict[str, dict[str, Any]] = {}
        self.agents: list[str] | None = []
        self.endpoint = ""
        self.busy = 0
        self.on_connection: Callable[[str, dict[str, Any]], None] | None = None
        self.asked: Counter[str] = Counter()
        self._keep = keep

    def provider(self, method: str, low: str, version: str) -> Response | None:
        """Answer a request for the provider itself, or return None."""
        models, deleted = _MODELS.fullmatch(low), _DELETED.fullmatch(low)
        if models is not None:
            check_version("microsoft.cognitiveservices", version)
            return JSONResponse({"value": self.offered.get(models[1], [])})
        if deleted is None:
            return None
        check_version("microsoft.cognitiveservices", version)
        if deleted["name"] is None:
            return JSONResponse({"value": list(self.deleted.values())})
        key = next((one for one in self.deleted if one.endswith(f"/{deleted['name']}")), None)
        if key is None:
            return error(404, "ResourceNotFound", "The deleted account was not found.")
        if method == "DELETE":
            del self.deleted[key]
            return Response(status_code=200)
        return JSONResponse(self.deleted[key])

    def refuse(self, path: str, kind: str, body: Any, resources: dict[str, Any]) -> Response | None:
        """Return Azure's refusal of a PUT, or None."""
        low, kind = path.lower(), kind.lower()
        if kind == ACCOUNTS:
            restores = body["properties"].get("restore") is True
            if low in self.deleted and not restores:
                message = "An existing resource with ID has been soft-deleted. To restore it, "
                return error(409, "FlagMustBeSetForRestore", f"{message}set restore to be true.")
            if restores and low not in self.deleted:
                return error(409, "CanNotRestoreANonExistingResource", "It was not deleted.")
            self.deleted.pop(low, None)
            body["properties"].pop("restore", None)
            return None
        parent = low.rpartition("/")[0].rpartition("/")[0]
        if parent not in resources:
            return error(404, "ParentResourceNotFound", f"{parent} was not found.")
        if self.busy > 0:
            self.busy -= 1
            message = "Another operation is being performed on the parent resource."
            return error(409, "RequestConflict", message)
        return self._refuse_model(parent, body, resources) if kind == MODELS else None

    def _refuse_model(self, account: str, body: Any, resources: dict[str, Any]) -> Response | None:
        wanted, region = body["properties"]["model"], resources[account]["location"]
        for one in self.offered.get(region, []):
            fits = one["model"]["name"] == wanted["name"]
            if fits and body["sku"]["name"] in {sku["name"] for sku in one["model"]["skus"]}:
                return None
        message = f"The model {wanted['name']} is not supported in this region."
        return error(400, "DeploymentModelNotSupported", message)

    def made(self, kept: dict[str, Any]) -> None:
        """Add the properties that Azure itself sets."""
        kind, properties = kept["type"].lower(), kept["properties"]
        if kind in {PROJECTS, ACCOUNTS, MODELS}:
            properties["provisioningState"] = "Succeeded"
        if kind == PROJECTS and self.endpoint:
            address = f"{self.endpoint}/api/projects/{kept['name']}"
            properties["endpoints"] = {"AI Foundry API": address}
        if kind == CONNECTIONS:
            if self.on_connection is not None:
                self.on_connection(kept["name"], {"properties": dict(properties)})
            properties["credentials"] = None
            properties["group"] = "AzureAI"

    def delete(self, path: str, kind: str, resources: dict[str, Any]) -> Response | None:
        """Return the refusal of a removal. An account that may go is kept as a deleted one."""
        low = path.lower()
        if kind.lower() != ACCOUNTS:
            return None
        nested = [one for one in resources if one.startswith(f"{low}/projects/")]
        if nested:
            message = "Cannot delete resource while nested resources exist."
            return error(409, "CannotDeleteResource", message)
        found = resources[low]
        self.deleted[low] = {name: found.get(name) for name in ("id", "name", "location", "tags")}
        return None

    async def list_agents(self, request: Request) -> Response:
        """Return the agents of a project, in pages of two."""
        self.asked["GET agents"] += 1
        if request.headers.get("authorization") != f"Bearer {values.ARM_TOKEN}":
            return error(401, "unauthorized", "Access denied due to an invalid token.")
        if self.agents is None:
            return error(403, "forbidden", "The role is missing.")
        start = request.query_params.get("after")
        names = self.agents if start is None else self.agents[self.agents.index(start) + 1 :]
        page = [{"object": "agent", "id": one, "name": one} for one in names[:2]]
        last = page[-1]["id"] if page else None
        return JSONResponse({"data": page, "last_id": last, "has_more": len(names) > len(page)})


def check_body(kind: str, name: str, body: Any) -> None:
    """Check the body of a PUT against the official description."""
    if FOLDER is None:
        return
    from jsonschema import Draft4Validator

    short = kind.lower().partition("/")[2].replace("/", "_")
    spec = _spec()
    definition = next(
        value for key, value in spec["resourceDefinitions"].items() if key.lower() == short
    )
    schema = {**definition, "definitions": spec["definitions"]}
    full = schema["properties"]["type"]["enum"][0]
    whole = {**body, "name": name, "type": full, "apiVersion": "2025-12-01"}
    errors = [one.message for one in Draft4Validator(schema).iter_errors(whole)]
    unknown = [] if short.endswith("connections") else find_unknown(whole, schema)
    if errors or unknown:
        raise NotAsDescribedError(f"{short}: {errors} unknown: {unknown}")


@functools.cache
def _spec() -> dict[str, Any]:
    assert FOLDER is not None
    found: dict[str, Any] = make_offline(json.loads((FOLDER / _SPEC).read_text()))
    return found


def error(status: int, code: str, message: str) -> Response:
    """Return an error as Resource Manager writes it."""
    return JSONResponse({"error": {"code": code, "message": message}}, status)
