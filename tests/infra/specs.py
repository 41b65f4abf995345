"""The official descriptions of Azure's resources, where they are at hand, made strict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator, ValidationError

from .snapshots import ROOT, Resource

FOLDER = next(
    (
        path
        for folder in (ROOT.parent / "shared", Path("/work/shared"))
        if (path := folder / "specs").is_dir()
    ),
    None,
)
SCHEMAS = {
    "Microsoft.App": "Microsoft.App.2025-10-02-preview.schema.json",
    "Microsoft.CognitiveServices": "Microsoft.CognitiveServices.2025-12-01.schema.json",
}
STABLE_APP = "2026-07-01"
PREVIEW_APP = "2025-10-02-preview"
# What the stable version lacks, and the newest published description has.
_PREVIEW_ONLY = {"mcpServerSettings", "templateUpdateStatus"}
_EXPRESSION = {"type": "string", "pattern": r"^\[([^\[].*)?\]$"}


def load(name: str) -> Any:
    """One of the descriptions; the test is skipped where they are not at hand."""
    if FOLDER is None:
        pytest.skip("the official descriptions are not at hand")
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def check(resource: Resource) -> bool:
    """Hold a resource against its schema; False where there is none for its type.

    Raises:
        jsonschema.ValidationError: It breaks it.
    """
    provider, _, kind = resource.type.partition("/")
    if provider not in SCHEMAS:
        return False
    schema = _strict(_local(load(SCHEMAS[provider])))
    definition = schema["resourceDefinitions"][kind.replace("/", "_")]
    sent = {
        "type": resource.type,
        "apiVersion": _described_version(resource),
        "name": resource.name.rpartition("/")[2],
        **resource.body,
    }
    Draft4Validator({**definition, "definitions": schema["definitions"]}).validate(sent)
    return True


def check_session_pool(resource: Resource) -> None:
    """Hold a pool against the description of its API, which knows what a request may not have.

    Raises:
        jsonschema.ValidationError: It breaks it.
    """
    description = load("SessionPools.2025-10-02-preview.openapi.json")
    assert _described_version(resource) == description["info"]["version"]
    definitions = _strict(_writable(_local(description["definitions"])))
    pool = definitions["SessionPool"]
    pool["properties"] |= {"location": {"type": "string"}, "tags": {"type": "object"}}
    Draft4Validator({**pool, "definitions": definitions}).validate(resource.body)


def _described_version(resource: Resource) -> str:
    """Return the version of the description that a resource is held against.

    There is none of Microsoft.App's stable version. So that is held against the preview's, without
    what only previews have.
    """
    if resource.api_version != STABLE_APP:
        return resource.api_version
    preview_only = _PREVIEW_ONLY & set(resource.body.get("properties", {}))
    if preview_only:
        raise ValidationError(f"{resource.api_version} has no {sorted(preview_only)}")
    return PREVIEW_APP


def _local(value: Any) -> Any:
    """Without references to other files, and with the numbers that the API takes."""
    if isinstance(value, dict):
        reference = str(value.get("$ref", ""))
        if reference.endswith("/definitions/expression"):
            return _EXPRESSION
        if reference and not reference.startswith("#"):
            return {}
        local = {name: _local(item) for name, item in value.items()}
        if "cpu" in local and "memory" in local:  # doubles, which the schemas call integers
            local["cpu"] = {"type": "number"}
        return local
    return [_local(item) for item in value] if isinstance(value, list) else value


def _strict(value: Any) -> Any:
    """No property that is not described, except where a property chooses between descriptions."""
    if isinstance(value, dict):
        chosen = {"oneOf", "allOf", "anyOf"} & set(value) and "properties" in value
        strict = {
            name: item if chosen and name == "oneOf" else _strict(item)
            for name, item in value.items()
        }
        if value.get("type") == "object" and value.get("properties"):
            strict.pop("allOf", None)
            if "oneOf" not in value:
                strict["additionalProperties"] = False
        return strict
    return [_strict(item) for item in value] if isinstance(value, list) else value


def _writable(value: Any) -> Any:
    """Without the properties that only answers have."""
    if isinstance(value, dict):
        return {
            name: _writable(item)
            for name, item in value.items()
            if not (isinstance(item, dict) and item.get("readOnly") is True)
        }
    return [_writable(item) for item in value] if isinstance(value, list) else value
