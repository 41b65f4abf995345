"""Checks of requests against Azure's official descriptions and documents."""

import functools
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
FOLDER = next(
    (
        path
        for folder in (ROOT.parent / "shared", Path("/work/shared"))
        if (path := folder / "specs").is_dir()
    ),
    None,
)
MISSING = "the official descriptions are not available"
_EXPRESSION = "https://schema.management.azure.com/schemas/common/definitions.json"
_APP = "Microsoft.App.2025-10-02-preview.schema.json"
_POOLS = "SessionPools.2025-10-02-preview.openapi.json"

VERSIONS = {
    "microsoft.resources/resourcegroups": "2021-04-01",
    "resources": "2021-04-01",
    "providers": "2021-04-01",
    "subscriptions": "2022-12-01",
    "features": "2021-07-01",
    "microsoft.app/sessionpools": "2026-07-01 2025-10-02-preview 2026-03-02-preview",
    "microsoft.app": "2026-07-01 2025-10-02-preview",
    "microsoft.containerregistry/registries": "2025-04-01",
    "microsoft.containerregistry/tasks": "2025-03-01-preview",
    "microsoft.managedidentity/userassignedidentities": "2024-11-30",
    "microsoft.insights/diagnosticsettings": "2021-05-01-preview",
    "microsoft.operationalinsights/workspaces": "2025-02-01",
    "microsoft.cognitiveservices": "2025-12-01",
    "microsoft.storage/storageaccounts": "2025-01-01",
    "microsoft.authorization/roleassignments": "2022-04-01",
    "microsoft.authorization/roledefinitions": "2022-04-01",
}
# Allowed bodies of types without an official description here.
_SHAPES: dict[str, Any] = {
    "microsoft.resources/resourcegroups": {"location": str, "tags": dict},
    "microsoft.managedidentity/userassignedidentities": {"location": str, "tags": dict},
    "microsoft.containerregistry/registries": {
        "location": str,
        "tags": dict,
        "sku": {"name": str},
        "properties": {"adminUserEnabled": bool, "anonymousPullEnabled": bool},
    },
    "microsoft.containerregistry/registries/taskruns": {
        "properties": {
            "forceUpdateTag": str,
            "runRequest": {
                "type": str,
                "dockerFilePath": str,
                "imageNames": list,
                "isPushEnabled": bool,
                "noCache": bool,
                "platform": {"os": str, "architecture": str},
                "sourceLocation": str,
                "arguments": list,
                "timeout": int,
            },
        }
    },
    "microsoft.insights/diagnosticsettings": {"properties": {"workspaceId": str, "logs": list}},
    "microsoft.operationalinsights/workspaces": {
        "location": str,
        "tags": dict,
        "properties": {"sku": {"name": str}, "retentionInDays": int},
    },
    "microsoft.storage/storageaccounts": {
        "location": str,
        "tags": dict,
        "kind": str,
        "sku": {"name": str},
        "properties": {
            "accessTier": str,
            "allowBlobPublicAccess": bool,
            "allowCrossTenantReplication": bool,
            "defaultToOAuthAuthentication": bool,
            "allowSharedKeyAccess": bool,
            "minimumTlsVersion": str,
            "supportsHttpsTrafficOnly": bool,
        },
    },
    "microsoft.storage/storageaccounts/blobservices/containers": {
        "properties": {"publicAccess": str}
    },
    "microsoft.storage/storageaccounts/managementpolicies": {
        "properties": {"policy": {"rules": list}}
    },
    "microsoft.authorization/roleassignments": {
        "properties": {"roleDefinitionId": str, "principalId": str, "principalType": str}
    },
}


class NotAsDescribedError(Exception):
    """A request that Azure's description does not allow."""


def check_version(kind: str, given: str) -> None:
    """Check the API version of a type, against a list that is independent of the code's own."""
    kind = kind.lower()
    tasks = ("/taskruns", "/runs", "listbuildsourceuploadurl", "listlogsasurl")
    if any(part in kind for part in tasks):
        kind = "microsoft.containerregistry/tasks"
    wanted = next(version for name, version in VERSIONS.items() if kind.startswith(name))
    if given not in wanted.split():
        raise NotAsDescribedError(f"api-version {given!r} of {kind}, not {wanted!r}")


def check_body(kind: str, name: str, body: Any) -> None:
    """Check the body of a PUT."""
    kind = kind.lower()
    if kind in _SHAPES:
        _check_shape(body, _SHAPES[kind], kind)
        return
    if FOLDER is None:
        return
    from jsonschema import Draft4Validator

    short = next(one for one in _app()["resourceDefinitions"] if kind.endswith(f"/{one.lower()}"))
    schema = {**_app()["resourceDefinitions"][short], "definitions": _app()["definitions"]}
    whole = {**body, "name": name, "type": f"Microsoft.App/{short}", "apiVersion": _version(schema)}
    errors = [error.message for error in Draft4Validator(schema).iter_errors(whole)]
    unknown = _unknown(whole, schema, schema["definitions"])
    if short == "sessionPools":
        pool = _pools()["definitions"]["SessionPool"]
        strict = {**pool, "definitions": _pools()["definitions"]}
        errors += [error.message for error in Draft4Validator(strict).iter_errors(body)]
    if errors or unknown:
        raise NotAsDescribedError(f"{short}: {errors} unknown: {unknown}")


def check_pool_change(body: Any) -> None:
    """Check the body of a PATCH of a session pool, which cannot change everything."""
    shape = {
        "tags": dict,
        "identity": dict,
        "properties": {
            "scaleConfiguration": dict,
            "secrets": list,
            "dynamicPoolConfiguration": dict,
            "customContainerTemplate": dict,
            "sessionNetworkConfiguration": dict,
        },
    }
    _check_shape(body, shape, "change of a session pool")
    if FOLDER is not None:
        from jsonschema import Draft4Validator

        pool = _pools()["definitions"]["SessionPoolUpdatableProperties"]
        strict = {**pool, "definitions": _pools()["definitions"]}
        errors = [error.message for error in Draft4Validator(strict).iter_errors(body)]
        if errors:
            raise NotAsDescribedError(f"change of a session pool: {errors}")


def check_change(body: Any) -> None:
    """Check the body of a change of a container app's secrets."""
    shape = {"properties": {"configuration": {"secrets": list}}}
    _check_shape(body, shape, "change of a container app")


def make_offline(value: Any) -> Any:
    """Return a description without references to other documents."""
    return _offline(value)


def find_unknown(value: Any, schema: dict[str, Any]) -> list[str]:
    """Return names that a description does not define."""
    return _unknown(value, schema, schema["definitions"])


def _version(schema: dict[str, Any]) -> str:
    return str(schema["properties"]["apiVersion"]["enum"][0])


@functools.cache
def _app() -> dict[str, Any]:
    assert FOLDER is not None
    return _numbers(_offline(json.loads((FOLDER / _APP).read_text())))


@functools.cache
def _pools() -> dict[str, Any]:
    assert FOLDER is not None
    return _without_foreign(json.loads((FOLDER / _POOLS).read_text()))


def _offline(value: Any) -> Any:
    """Replace references to template expressions, which requests do not have, by a pattern."""
    if isinstance(value, dict):
        if str(value.get("$ref", "")).startswith(_EXPRESSION):
            return {"type": "string", "pattern": r"^\[([^\[].*)?\]$"}
        return {name: _offline(item) for name, item in value.items()}
    return [_offline(item) for item in value] if isinstance(value, list) else value


def _numbers(schema: dict[str, Any]) -> dict[str, Any]:
    """Allow numbers where the schema requires integers, as the API's own description does."""
    for name, definition in schema["definitions"].items():
        if name.endswith("Resources") and "cpu" in definition.get("properties", {}):
            definition["properties"]["cpu"] = {"type": "number"}
    return schema


def _without_foreign(value: Any) -> Any:
    if isinstance(value, dict):
        if not str(value.get("$ref", "#")).startswith("#"):
            return {}
        return {name: _without_foreign(item) for name, item in value.items()}
    return [_without_foreign(item) for item in value] if isinstance(value, list) else value


def _unknown(value: Any, schema: Any, definitions: dict[str, Any], at: str = "") -> list[str]:
    """Return names that a schema does not define. Such schemas allow them."""
    schema = _resolved(schema, definitions)
    found: list[str] = []
    if isinstance(value, dict) and "properties" in schema:
        free = schema.get("additionalProperties")
        for name, item in value.items():
            if name in schema["properties"]:
                inner = schema["properties"][name]
                found += _unknown(item, inner, definitions, f"{at}.{name}")
            elif not isinstance(free, dict):
                found.append(f"{at}.{name}")
    if isinstance(value, list) and "items" in schema:
        for item in value:
            found += _unknown(item, schema["items"], definitions, f"{at}[]")
    return found


def _resolved(schema: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema or "oneOf" in schema:
        if "oneOf" in schema:
            schema = schema["oneOf"][0]
        else:
            schema = definitions[re.sub(r".*/", "", schema["$ref"])]
    found: dict[str, Any] = schema
    return found


def _check_shape(value: Any, shape: Any, at: str) -> None:
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise NotAsDescribedError(f"{at} is not an object")
        for name, item in value.items():
            if name not in shape:
                raise NotAsDescribedError(f"{at} has no {name}")
            _check_shape(item, shape[name], f"{at}.{name}")
    elif not isinstance(value, shape):
        raise NotAsDescribedError(f"{at} is {type(value).__name__}, not {shape.__name__}")
