"""A fake Azure Resource Manager for provisioning: state, long operations, faults.

Nothing depends on time. A long operation takes a number of requests, throttling lasts for a number
of requests, and a new role is unknown for a number of uses. So tests are quick and reproducible.
"""

import re
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import foundry, specs, values
from .registry_tasks import RegistryTasks

_ID = re.compile(
    r"(?P<group>/subscriptions/[^/]+/resourcegroups/[^/]+)"
    r"(?:/providers/(?P<rest>.*))?",
    re.IGNORECASE,
)
SLOW = {
    "microsoft.app/managedenvironments",
    "microsoft.app/sessionpools",
    "microsoft.app/containerapps",
    "microsoft.containerregistry/registries",
    "microsoft.containerregistry/registries/taskruns",
    "microsoft.storage/storageaccounts",
    foundry.ACCOUNTS,
    foundry.PROJECTS,
    foundry.MODELS,
}
# Actions by POST that change nothing.
READS = ("fetchmcpservercredentials", "listsecrets", "listlogsasurl", "listbuildsourceuploadurl")
LOCATIONS = ("eastus", "swedencentral", "northeurope", "westus2")
PAGE = 3
ACR_PULL = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
EXECUTOR = "0fb8eba5-a2bb-4abe-b1c1-49dfad359bb0"


@dataclass
class Fault:
    """An error for requests that match.

    Attributes:
        method: Method of the request.
        part: Part of its path, in lower case.
        status: Status of the answer.
        code: Azure's code.
        message: Azure's message.
        times: Number of failures.
        headers: Headers of the answer.
        later: Whether the request is accepted, and its operation fails.
    """

    method: str
    part: str
    status: int = 400
    code: str = "BadRequest"
    message: str = "It went wrong."
    times: int = 1_000
    headers: dict[str, str] = field(default_factory=dict)
    later: bool = False


@dataclass
class Operation:
    """An operation in progress."""

    looks: int
    target: str
    finish: Callable[[], None]
    error: dict[str, str] | None = None
    is_delete: bool = False


class Cloud:
    """One subscription.

    Attributes:
        resources: Every resource by its id in lower case.
        faults: Errors to return.
        pullers: Identities, in lower case, that may pull from a registry elsewhere.
        writes: Method and path of each request that changed something.
        requests: Number of requests by method.
        connections: Addresses of the connections that requests came by.
        wrong: Requests that Azure's descriptions do not allow. It must stay empty.
        looks: Requests until a long operation ends.
        registration_looks: Requests until a registration ends.
        role_uses: Uses of a new role until it is known.
        restarted: Revisions of container apps that were restarted.
        subscription_state: State of the subscription.
        regions: Regions with session pools, by their display names.
        late_endpoints: Number of reads until a new pool names its endpoints.
        hides: Properties of a pool that are kept and never returned.
        app_versions: Versions of the API of Microsoft.App that Azure has.
        template_status: What previews report about the containers of custom pools.
        drops_mcp: Whether `mcpServerSettings` are dropped on every pool.
        data_plane: Address of the pools' data plane.
        gateway_host: Host of each gateway. Azure's form when empty.
        on_write: Called after each write, with the number of writes.
    """

    def __init__(self) -> None:
        self.resources: dict[str, dict[str, Any]] = {}
        self.registered: dict[str, str] = {}
        self.feature = "NotRegistered"
        self.faults: list[Fault] = []
        self.pullers: set[str] = set()
        self.writes: list[tuple[str, str]] = []
        self.requests: Counter[str] = Counter()
        self.connections: set[Any] = set()
        self.wrong: list[str] = []
        self.restarted: list[str] = []
        self.looks = 2
        self.registration_looks = 2
        self.role_uses = 2
        self.late_endpoints = 0
        self.hides: set[str] = set()
        self.app_versions = ["2025-10-02-preview", "2026-03-02-preview", "2026-07-01"]
        self.template_status: dict[str, Any] | None = None
        self.drops_mcp = False
        self.data_plane = "https://pool.invalid"
        self.gateway_host = ""
        self.url = ""
        self.key = values.POOL_KEY
        self.on_write: Callable[[int], None] | None = None
        self.subscriptions = [(values.SUBSCRIPTION, "Development")]
        self.subscription_state = "Enabled"
        self.regions = ["East US", "Sweden Central", "North Europe", "West US 2"]
        self.tasks = RegistryTasks(self)
        self.foundry = foundry.Foundry(self._keep)
        self._registering: dict[str, int] = {}
        self._operations: dict[str, Operation] = {}
        self._unknown_roles: dict[str, int] = {}
        self._secrets: dict[str, list[dict[str, str]]] = {}

    # -- what tests ask and set

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Return the resources of a type."""
        return [one for one in self.resources.values() if one["type"].lower() == kind.lower()]

    def everything_registered(self) -> None:
        """Register every provider and the feature."""
        self.feature = "Registered"
        for name in (
            "App",
            "CognitiveServices",
            "ContainerRegistry",
            "Insights",
            "ManagedIdentity",
            "OperationalInsights",
            "Storage",
        ):
            self.registered[f"microsoft.{name}".lower()] = "Registered"

    def add(self, kind: str, name: str, group: str, **more: Any) -> str:
        """Add a resource of somebody else."""
        identifier = (
            f"/subscriptions/{values.SUBSCRIPTION}/resourceGroups/{group}/providers/{kind}/{name}"
        )
        self._keep(identifier, kind, {"location": "eastus", "tags": {}, "properties": {}, **more})
        return identifier

    def assign(self, role: str, scope: str) -> None:
        """Assign the signed-in user a role that is known everywhere."""
        kind = "Microsoft.Authorization/roleAssignments"
        name = f"{scope}/providers/{kind}/{uuid4()}"
        definition = f"/subscriptions/{values.SUBSCRIPTION}/providers/Microsoft.Authorization"
        definition += f"/roleDefinitions/{role}"
        self._keep(
            name, kind, {"properties": {"roleDefinitionId": definition, "principalId": values.USER}}
        )

    def add_group(self, name: str, **tags: str) -> str:
        """Add a resource group of somebody else."""
        identifier = f"/subscriptions/{values.SUBSCRIPTION}/resourceGroups/{name}"
        kind = "Microsoft.Resources/resourceGroups"
        self._keep(identifier, kind, {"location": "eastus", "tags": tags, "properties": {}})
        return identifier

    def has_role(self, principal: str, role: str, scope: str) -> bool:
        """Return whether a role is known. Each call counts as a use."""
        for one in self.of_type("Microsoft.Authorization/roleAssignments"):
            properties = one["properties"]
            at = one["id"].lower().partition("/providers/microsoft.authorization/")[0]
            fits = properties["principalId"] == principal and scope.lower().startswith(at)
            if fits and properties["roleDefinitionId"].endswith(role):
                left = self._unknown_roles.get(one["id"].lower(), 0)
                self._unknown_roles[one["id"].lower()] = left - 1
                return left <= 0
        return False

    # -- requests

    async def answer(self, request: Request) -> Response:
        """Answer one request to Resource Manager."""
        path, method = request.url.path, request.method
        self.requests[method] += 1
        self.connections.add(request.client)
        body = await request.json() if await request.body() else None
        refused = self._refused(request, method, path)
        if refused is not None:
            return refused
        is_write = method != "GET" and not path.lower().endswith(READS)
        try:
            response = self._route(request, method, path.rstrip("/"), body)
        except specs.NotAsDescribedError as error:
            self.wrong.append(f"{method} {path}: {error}")
            return _error(400, "InvalidRequestContent", f"The request is not valid: {error}")
        except Exception as error:  # noqa: BLE001 - a fault of the fake is not to be retried
            self.wrong.append(f"{method} {path}: {error!r} {traceback.format_exc()}")
            return _error(400, "FakeIsBroken", repr(error))
        if is_write and response.status_code < 400:
            self.writes.append((method, path))
            if self.on_write is not None:
                self.on_write(len(self.writes))
        return response

    def _refused(self, request: Request, method: str, path: str) -> Response | None:
        if request.headers.get("authorization") not in {
            f"Bearer {values.ARM_TOKEN}",
            f"Bearer {values.token(values.USER, 'app')}",
        }:
            return _error(
                401, "InvalidAuthenticationToken", "The access token is missing or invalid."
            )
        for fault in self.faults:
            fits = fault.method == method and fault.part in path.lower() and not fault.later
            if fits and fault.times > 0:
                fault.times -= 1
                return _error(fault.status, fault.code, fault.message, fault.headers)
        return None

    def _route(  # noqa: PLR0911 - one answer for each kind of path
        self, request: Request, method: str, path: str, body: Any
    ) -> Response:
        low = path.lower()
        version = request.query_params.get("api-version", "")
        if low.startswith("/operations/"):
            return self._operation(low.rpartition("/")[2])
        if low == "/subscriptions":
            specs.check_version("subscriptions", version)
            return JSONResponse(
                {
                    "value": [
                        {
                            "subscriptionId": one,
                            "displayName": name,
                            "state": self.subscription_state,
                        }
                        for one, name in self.subscriptions
                    ]
                }
            )
        if not low.startswith(f"/subscriptions/{values.SUBSCRIPTION}"):
            return _error(404, "SubscriptionNotFound", "The subscription could not be found.")
        if "/providers/microsoft.features/" in low:
            specs.check_version("features", version)
            return self._feature(method)
        answer = self.foundry.provider(method, low, version)
        if answer is not None:
            return answer
        provider = re.fullmatch(r"/subscriptions/[^/]+/providers/([^/]+)(/register)?", low)
        if provider is not None:
            specs.check_version("providers", version)
            return self._provider(method, provider[1])
        if "/roledefinitions/" in low:
            specs.check_version("microsoft.authorization/roledefinitions", version)
            return _role(path)
        if low.endswith("/resources"):
            specs.check_version("resources", version)
            return self._listed(request, low.removesuffix("/resources"))
        return self._resource(request, method, path, version, body)

    def _feature(self, method: str) -> Response:
        if method == "POST":
            self.feature = "Registering"
            self._registering["feature"] = self.registration_looks
        elif self.feature == "Registering" and self._one_look_less("feature"):
            self.feature = "Registered"
        return JSONResponse({"properties": {"state": self.feature}, "name": "feature"})

    def _provider(self, method: str, name: str) -> Response:
        if method == "POST":
            self.registered[name] = "Registering"
            self._registering[name] = self.registration_looks
        elif self.registered.get(name) == "Registering" and self._one_look_less(name):
            self.registered[name] = "Registered"
        state = self.registered.get(name, "NotRegistered")
        kind = {"resourceType": "sessionPools", "locations": self.regions}
        provider = {"namespace": name, "registrationState": state, "resourceTypes": [kind]}
        return JSONResponse(provider)

    def _one_look_less(self, name: str) -> bool:
        self._registering[name] = self._registering.get(name, 0) - 1
        return self._registering[name] <= 0

    def _listed(self, request: Request, group: str) -> Response:
        if group not in self.resources:
            return _error(404, "ResourceGroupNotFound", "The resource group could not be found.")
        top = [
            {name: one.get(name) for name in ("id", "name", "type", "location", "tags")}
            for key, one in sorted(self.resources.items())
            if key.startswith(f"{group}/providers/") and key.count("/") == 8
        ]
        start = int(request.query_params.get("$skiptoken", "0"))
        page: dict[str, Any] = {"value": top[start : start + PAGE]}
        if start + PAGE < len(top):
            page["nextLink"] = (
                f"{self.url}{request.url.path}?api-version=2021-04-01&$skiptoken={start + PAGE}"
            )
        return JSONResponse(page)

    def _resource(
        self, request: Request, method: str, path: str, version: str, body: Any
    ) -> Response:
        kind, action = _kind_of(path)
        specs.check_version(kind, version)
        if kind.lower().startswith("microsoft.app/") and version not in self.app_versions:
            listed = ", ".join(self.app_versions)
            message = f"No registered resource provider found for API version '{version}'. The "
            message += f"supported api-versions are '{listed}'."
            return _error(400, "NoRegisteredProviderFound", message)
        properties = (body or {}).get("properties") or {}
        if "mcpServerSettings" in properties and not version.endswith("-preview"):
            raise specs.NotAsDescribedError(f"{version} has no mcpServerSettings")
        if kind.lower() == "microsoft.authorization/roleassignments" and action == "list":
            return self._roles_at(path, request.query_params.get("$filter", ""))
        unknown = set(request.query_params) - {"api-version"}
        if unknown:
            raise specs.NotAsDescribedError(f"query {unknown}")
        if action == "list" and method == "GET":
            return self._children(path)
        if method == "POST":
            return self._action(path, body)
        if method == "PATCH":
            return self._change(path, body)
        if method == "GET" and "preview" in version and self.template_status is not None:
            found = self.resources.get(path.lower())
            if found is not None and found["properties"].get("customContainerTemplate"):
                found["properties"]["templateUpdateStatus"] = {
                    "desiredTemplate": self.template_status
                }
        handler = {"GET": self._get, "PUT": self._put, "DELETE": self._delete}[method]
        return handler(path, kind, body)

    def _roles_at(self, path: str, wanted: str) -> Response:
        scope = path.lower().partition("/providers/microsoft.authorization/")[0]
        who = re.fullmatch(r"assignedTo\('([^']+)'\)", wanted)
        if who is None and wanted != "atScope()":
            raise specs.NotAsDescribedError(f"filter {wanted!r}")
        found = []
        for one in self.of_type("Microsoft.Authorization/roleAssignments"):
            at = one["id"].lower().partition("/providers/microsoft.authorization/")[0]
            if scope.startswith(at) and (who is None or one["properties"]["principalId"] == who[1]):
                found.append(one)
        return JSONResponse({"value": found})

    def _children(self, path: str) -> Response:
        """Return the resources of one type below another one."""
        start, depth = f"{path.lower()}/", path.count("/") + 1
        found = [
            _shown(one)
            for key, one in sorted(self.resources.items())
            if key.startswith(start) and key.count("/") == depth
        ]
        return JSONResponse({"value": found})

    def _get(self, path: str, kind: str, _: Any) -> Response:
        key = path.lower()
        for name, operation in list(self._operations.items()):
            if operation.target == key:
                self._look(name, operation)
        found = self.resources.get(key)
        if found is None:
            return _error(404, "ResourceNotFound", f"The resource '{path}' was not found.")
        shown = _shown(found)
        if kind.lower() == "microsoft.app/sessionpools":
            _hide(shown["properties"], self.hides)
            if self.late_endpoints > 0:
                self.late_endpoints -= 1
                _hide(shown["properties"], {"poolManagementEndpoint", "mcpServerEndpoint"})
        return JSONResponse(shown)

    def _put(  # noqa: PLR0911 - one answer for each lack
        self, path: str, kind: str, body: Any
    ) -> Response:
        key = path.lower()
        is_foundry = kind.lower().startswith(foundry.ACCOUNTS)
        check = foundry.check_body if is_foundry else specs.check_body
        check(kind, path.rpartition("/")[2], body)
        missing = self._missing_parent(path, kind, body)
        if missing is not None:
            return missing
        if is_foundry:
            missing = self.foundry.refuse(path, kind, body, self.resources)
            if missing is not None:
                return missing
        is_new = key not in self.resources
        if not is_new and self._busy(key):
            return _error(409, "Conflict", "Another operation is in progress.")
        fixed = None if is_new else self._fixed(self.resources[key], body)
        if fixed is not None:
            return fixed
        if not is_new and kind.lower().endswith("roleassignments"):
            return _error(409, "RoleAssignmentExists", "The role assignment already exists.")
        kept = self._keep(path, kind, body)
        if kind.lower().endswith("roleassignments"):
            self._unknown_roles[key] = self.role_uses
        if kind.lower() not in SLOW:
            self._made(kept)
            return JSONResponse(_shown(kept), 201 if is_new else 200)
        return self._begin(key, kept, is_new=is_new)

    def _fixed(self, found: dict[str, Any], body: Any) -> Response | None:
        """Refuse a change of what cannot change in place."""
        if body.get("location", found.get("location")) != found.get("location"):
            message = f"The resource '{found['name']}' already exists in '{found['location']}'."
            return _error(409, "InvalidResourceLocation", message)
        for name in ("containerType", "environmentId"):
            old, new = (one.get("properties", {}).get(name) for one in (found, body))
            if old is not None and str(old).lower() != str(new).lower():
                self.wrong.append(f"PUT {found['id']}: {name} cannot change")
                return _error(400, "PropertyChangeNotAllowed", f"{name} cannot change.")
        return None

    def _change(self, path: str, body: Any) -> Response:
        """Change a pool, or replace a container app's secrets: those left out are deleted."""
        found = self.resources.get(path.lower())
        if found is None:
            return _error(404, "ResourceNotFound", f"The resource '{path}' was not found.")
        if "/sessionpools/" in path.lower():
            specs.check_pool_change(body)
            if self._busy(path.lower()):
                return _error(409, "Conflict", "Another operation is in progress.")
            properties = {**found["properties"], **_copy(body.get("properties", {}))}
            missing = _missing_secret(properties)
            if missing is not None:
                return _error(400, "SecretRefNotFound", f"Secret '{missing}' was not found.")
            changed = {**found, **_copy(body), "properties": properties}
            self.resources[path.lower()] = changed
            return self._begin(path.lower(), changed, is_new=False)
        specs.check_change(body)
        secrets = body["properties"]["configuration"]["secrets"]
        self._secrets[path.lower()] = secrets
        name = uuid4().hex
        finish = Operation(self.looks, path.lower(), lambda: None)
        self._operations[name] = finish
        where = {"Azure-AsyncOperation": f"{self.url}/operations/{name}"}
        return JSONResponse(_shown(found), 202, headers=where)

    def _begin(self, key: str, kept: dict[str, Any], *, is_new: bool) -> Response:
        kept["properties"]["provisioningState"] = "InProgress"
        operation = Operation(
            self.looks, key, lambda: self._made(kept), self._later_error(key, kept)
        )
        name = uuid4().hex
        self._operations[name] = operation
        if "microsoft.storage" in key:
            where = {"Location": f"{self.url}/operations/{name}", "Retry-After": "0"}
            return Response(status_code=202, headers=where)
        where = {"Azure-AsyncOperation": f"{self.url}/operations/{name}"}
        return JSONResponse(_shown(kept), 201 if is_new else 200, headers=where)

    def _later_error(self, key: str, kept: dict[str, Any]) -> dict[str, str] | None:
        for fault in self.faults:
            if fault.later and fault.part in key and fault.times > 0:
                fault.times -= 1
                return {"code": fault.code, "message": fault.message}
        if "taskruns" in key:
            return self.tasks.error_of(kept)
        return self._pull_error(kept)

    def _pull_error(self, kept: dict[str, Any]) -> dict[str, str] | None:
        """Return the error of a pool whose identity cannot pull its image."""
        template = kept["properties"].get("customContainerTemplate", {})
        credentials = template.get("registryCredentials")
        if credentials is None:
            return None
        name = credentials["server"].partition(".")[0]
        if credentials["identity"].lower() in self.pullers:
            return None
        registry = next(
            (
                one
                for one in self.of_type("Microsoft.ContainerRegistry/registries")
                if one["name"] == name
            ),
            None,
        )
        image = template["containers"][0]["image"].rpartition("/")[2]
        if registry is None or image not in self.tasks.images:
            return {"code": "SessionPoolImageNotFound", "message": f"No image {image}."}
        if not self.has_role(values.IDENTITY_PRINCIPAL, ACR_PULL, registry["id"]):
            message = f"Failed to pull image {image}: UNAUTHORIZED: authentication required."
            return {"code": "SessionPoolImagePullFailed", "message": message}
        return None

    def _made(self, kept: dict[str, Any]) -> None:
        """Add the properties that Azure itself sets."""
        properties, kind = kept["properties"], kept["type"].lower()
        if kind in SLOW:
            properties["provisioningState"] = "Succeeded"
        if kind == "microsoft.app/sessionpools":
            self._made_pool(properties)
        if kind == "microsoft.app/containerapps":
            secrets = properties["configuration"].pop("secrets", [])
            self._secrets[kept["id"].lower()] = secrets
            properties["configuration"]["secrets"] = [{"name": one["name"]} for one in secrets]
            host = self.gateway_host or f"{kept['name']}.happy-sea.eastus.azurecontainerapps.io"
            properties["configuration"]["ingress"]["fqdn"] = host
            properties["latestRevisionName"] = f"{kept['name']}--first"
        if kind == "microsoft.managedidentity/userassignedidentities":
            properties["principalId"] = values.IDENTITY_PRINCIPAL
            properties["clientId"] = values.IDENTITY_CLIENT
        if kind == "microsoft.containerregistry/registries":
            properties["loginServer"] = f"{kept['name']}.azurecr.io"
        if kind.endswith("/taskruns"):
            self.tasks.built(kept)
        self.foundry.made(kept)

    def _made_pool(self, properties: dict[str, Any]) -> None:
        properties["poolManagementEndpoint"] = self.data_plane
        settings = properties.get("mcpServerSettings")
        if settings is None:
            return
        if properties["containerType"] == "CustomContainer" or self.drops_mcp:
            properties["mcpServerSettings"] = None  # accepted, and dropped
        else:
            settings["mcpServerEndpoint"] = f"{self.data_plane}/mcp"

    def _delete(self, path: str, kind: str, _: Any) -> Response:
        key = path.lower()
        if key not in self.resources:
            return Response(status_code=204)
        if kind.lower() == "microsoft.app/managedenvironments":
            for one in self.resources.values():
                if str(one["properties"].get("environmentId", "")).lower() == key:
                    return _error(409, "ManagedEnvironmentInUse", "The environment is in use.")
        refused = self.foundry.delete(path, kind, self.resources)
        if refused is not None:
            return refused
        slow = kind.lower() in SLOW - {"microsoft.storage/storageaccounts"}
        if not slow and kind.lower() != "microsoft.resources/resourcegroups":
            self._forget(key)
            return Response(status_code=200)
        self.resources[key]["properties"]["provisioningState"] = "Deleting"
        name = uuid4().hex
        finish = Operation(self.looks, key, lambda: self._forget(key), is_delete=True)
        self._operations[name] = finish
        return Response(status_code=202, headers={"Location": f"{self.url}/operations/{name}"})

    def _forget(self, key: str) -> None:
        for one in [one for one in self.resources if one == key or one.startswith(f"{key}/")]:
            del self.resources[one]

    def _operation(self, name: str) -> Response:  # noqa: PLR0911 - as Azure answers
        operation = self._operations.get(name)
        if operation is None:
            return Response(status_code=204)
        done = self._look(name, operation)
        if operation.is_delete:
            where = {"Location": f"{self.url}/operations/{name}"}
            return Response(status_code=204 if done else 202, headers={} if done else where)
        if "microsoft.storage" in operation.target:
            where = {"Location": f"{self.url}/operations/{name}"}
            if not done:
                return Response(status_code=202, headers=where)
            return JSONResponse(_shown(self.resources[operation.target]))
        if not done:
            return JSONResponse({"status": "InProgress"})
        if operation.error is not None:
            return JSONResponse({"status": "Failed", "error": operation.error})
        return JSONResponse({"status": "Succeeded"})

    def _look(self, name: str, operation: Operation) -> bool:
        operation.looks -= 1
        if operation.looks > 0:
            return False
        if operation.looks == 0:
            if operation.error is None:
                operation.finish()
            else:
                found = self.resources[operation.target]
                found["properties"]["provisioningState"] = "Failed"
        return True

    def _busy(self, key: str) -> bool:
        return any(one.target == key and one.looks > 0 for one in self._operations.values())

    def _action(self, path: str, body: Any) -> Response:  # noqa: PLR0911 - one for each
        target, _, action = path.rpartition("/")
        found = self.resources.get(target.lower())
        if "/runs/" in path.lower() or action == "listBuildSourceUploadUrl":
            return self.tasks.answer(path, action)
        if "/revisions/" in path and action == "restart":
            self.restarted.append(path.split("/")[-2])
            return Response(status_code=200)
        if found is None:
            return _error(404, "ResourceNotFound", f"The resource '{target}' was not found.")
        if action.lower() == "listsecrets":
            return JSONResponse({"value": self._secrets.get(target.lower(), [])})
        if not found["properties"].get("mcpServerSettings"):
            message = f"Session pool '{found['name']}' does not have MCP Server enabled."
            return _error(400, "SessionMCPServerNotEnabled", message)
        if action.lower() == "rotatemcpservercredentials":
            self.key = values.ROTATED_KEY
            return JSONResponse({"apiKey": self.key})
        if action.lower() == "fetchmcpservercredentials":
            return JSONResponse({"apiKey": self.key})
        return _error(404, "NotFound", "Unknown action.")

    def _missing_parent(  # noqa: PLR0911 - one answer for each lack
        self, path: str, kind: str, body: Any
    ) -> Response | None:
        match = _ID.fullmatch(path)
        assert match is not None
        if not kind.lower().startswith("microsoft.resources/"):
            if match["group"].lower() not in self.resources:
                return _error(404, "ResourceGroupNotFound", "The resource group was not found.")
            namespace = kind.partition("/")[0].lower()
            free = {"microsoft.authorization"}
            if namespace not in free and self.registered.get(namespace) != "Registered":
                return _error(409, "MissingSubscriptionRegistration", f"{namespace} is not there.")
        location = str(body.get("location", "eastus"))
        if location not in LOCATIONS:
            message = f"The location '{location}' is not available for resource type '{kind}'."
            return _error(400, "LocationNotAvailableForResourceType", message)
        environment = (body.get("properties") or {}).get("environmentId")
        if environment is not None and environment.lower() not in self.resources:
            return _error(400, "ManagedEnvironmentNotFound", "The environment was not found.")
        missing_secret = _missing_secret(body.get("properties") or {})
        if missing_secret is not None:
            return _error(400, "SecretRefNotFound", f"Secret '{missing_secret}' was not found.")
        wants_mcp = "mcpServerSettings" in (body.get("properties") or {})
        if wants_mcp and self.feature != "Registered":
            return _error(400, "FeatureNotRegistered", "SessionPoolsSupportMCP is missing.")
        parent = _parent(path, kind)
        if parent is not None and parent not in self.resources:
            return _error(404, "ParentResourceNotFound", f"{parent} was not found.")
        return None

    def _keep(self, path: str, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        kept = {"properties": {}, **_copy(body)}
        kept |= {"id": path, "name": path.rpartition("/")[2], "type": kind}
        self.resources[path.lower()] = kept
        return kept


def _missing_secret(properties: dict[str, Any]) -> str | None:
    """Return a secret that a pool's container refers to and that the request does not have."""
    names = {one["name"] for one in properties.get("secrets", [])}
    for container in (properties.get("customContainerTemplate") or {}).get("containers", []):
        for one in container.get("env", []):
            if "secretRef" in one and one["secretRef"] not in names:
                return str(one["secretRef"])
    return None


def _role(path: str) -> Response:
    name = path.rpartition("/")[2]
    if name not in values.ROLES:
        return _error(404, "RoleDefinitionDoesNotExist", f"The role {name} was not found.")
    role = values.ROLES[name]
    empty: dict[str, list[str]] = {
        "actions": [],
        "notActions": [],
        "dataActions": [],
        "notDataActions": [],
    }
    permission = {part: role.get(part, given) for part, given in empty.items()}
    return JSONResponse(
        {"id": path, "properties": {"roleName": role["roleName"], "permissions": [permission]}}
    )


def _hide(value: Any, names: set[str]) -> None:
    for item in value if isinstance(value, list) else list(value.values()):
        if isinstance(item, (dict, list)):
            _hide(item, names)
    for name in names if isinstance(value, dict) else ():
        value.pop(name, None)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(item) for name, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    """Return a resource as Azure does: without secrets, and with another spelling."""
    shown: dict[str, Any] = _copy(found)
    secrets = shown["properties"].get("configuration", {}).get("secrets")
    for one in [*(secrets or []), *shown["properties"].get("secrets", [])]:
        one.pop("value", None)
    if shown.get("location") == "eastus":
        shown["location"] = "East US"
    return shown


def _kind_of(path: str) -> tuple[str, str]:
    """Return the type of a resource by its id, and the action on it, if any."""
    match = _ID.fullmatch(path)
    if match is None:
        raise specs.NotAsDescribedError(f"path {path}")
    if match["rest"] is None:
        return "Microsoft.Resources/resourceGroups", ""
    last = match["rest"].rpartition("/providers/")[2]
    namespace, *parts = last.split("/")
    types, names = parts[0::2], parts[1::2]
    action = "list" if len(types) > len(names) else ""
    return "/".join([namespace, *types]), action


def _parent(path: str, kind: str) -> str | None:
    low = path.lower()
    for extension in ("microsoft.authorization/roleassignments", "microsoft.insights/diagnostic"):
        if kind.lower().startswith(extension):
            return low.partition(f"/providers/{extension.partition('/')[0]}/")[0]
    if "/storageaccounts/" in kind.lower():
        return re.sub(r"(/storageaccounts/[^/]+)/.*", r"\1", low)
    return re.sub(r"/taskruns/.*", "", low) if low.count("/taskruns/") else None


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers=headers)
