"""What the templates create: the compiler's own snapshots and the compiled template.

What only Azure knows, such as an endpoint that it assigns, is a reference in a snapshot. Here it is
written as `{name:properties.endpoint}`.
"""

from __future__ import annotations

import functools
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "infra" / "main.bicep"
FOLDER = ROOT / "infra" / "snapshots"
SHAPES = sorted(path.stem for path in FOLDER.glob("*.bicepparam"))
GROUP = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/group"

_REFERENCE = re.compile(r"reference\('[^']*/([^'/]+)', '[^']*'\)((?:\.\w+)+)")
_GUID = re.compile(r"guid\(([^()]*)\)")
_EXTENSION = re.compile(r"\[extensionResourceId\('([^']+)', '([^']+)', ([^()]+)\)\]")
_GUIDS = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")  # documented for guid()
_ENVELOPE = {"id", "type", "name", "apiVersion", "condition", "dependsOn"}


@dataclass(frozen=True)
class Resource:
    """One resource, as Azure Resource Manager gets it.

    Attributes:
        type: Full type, such as `Microsoft.App/sessionPools`.
        api_version: Version of the API that creates it.
        name: Names of its parents and its own, with slashes between.
        id: Resource id.
        body: The rest: `location`, `tags`, `properties` and so on, without nulls.
    """

    type: str
    api_version: str
    name: str
    id: str
    body: dict[str, Any]

    @property
    def scope(self) -> str:
        """Id of the resource that it extends or that holds it."""
        return self.id.rpartition("/providers/")[0]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a compiled template."""

    name: str
    type: str
    description: str | None
    is_secure: bool
    is_required: bool
    default: Any
    allowed: tuple[Any, ...]
    bounds: dict[str, int]


@dataclass(frozen=True)
class Deployment:
    """What a template makes for one choice of parameters."""

    resources: list[Resource] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)

    def of(self, kind: str) -> list[Resource]:
        """Return the resources of a type."""
        return [resource for resource in self.resources if resource.type == kind]

    def one(self, kind: str) -> Resource:
        """Return the only resource of a type."""
        (resource,) = self.of(kind)
        return resource


@functools.cache
def load(shape: str) -> Deployment:
    """Return what a snapshot shows."""
    found = json.loads((FOLDER / f"{shape}.snapshot.json").read_text(encoding="utf-8"))
    assert found["diagnostics"] == []
    resources = []
    for one in found["predictedResources"]:
        assert "condition" not in one, f"{shape}: Azure would decide whether {one['name']} exists"
        body = {name: _resolve(item) for name, item in one.items() if name not in _ENVELOPE}
        resources.append(
            Resource(
                one["type"],
                one["apiVersion"],
                _resolve(one["name"]),
                _resolve(one["id"]),
                _without_nulls(body),
            )
        )
    return Deployment(resources, _resolve(found["outputs"]))


@functools.cache
def load_template() -> dict[str, Any]:
    """Return the compiled template."""
    return json.loads((FOLDER / "main.json").read_text(encoding="utf-8"))


def iter_templates() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the main template and each module's, by their names."""
    yield "main", load_template()
    for name, one in load_template()["resources"].items():
        yield name, one["properties"]["template"]


def list_parameters(template: dict[str, Any]) -> list[Parameter]:
    """Return the parameters of a compiled template."""
    bounds = ("minValue", "maxValue", "minLength", "maxLength")
    return [
        Parameter(
            name=name,
            type=one["type"],
            description=one.get("metadata", {}).get("description"),
            is_secure=one["type"].lower().startswith("secure"),
            is_required="defaultValue" not in one,
            default=one.get("defaultValue"),
            allowed=tuple(one.get("allowedValues", ())),
            bounds={bound: one[bound] for bound in bounds if bound in one},
        )
        for name, one in template.get("parameters", {}).items()
    ]


def _resolve(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _resolve(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item) for item in value]
    return _resolve_text(value) if isinstance(value, str) and value.startswith("[") else value


def _resolve_text(text: str) -> str:
    """Write references to Azure's values as `{name:properties.value}`, and derive names of them."""
    text = _REFERENCE.sub(r"'{\1:properties\2}'", text)
    text = _GUID.sub(lambda match: f"'{_guid(match[1])}'", text)
    text = _EXTENSION.sub(lambda match: f"{match[1]}/providers/{match[2]}/{match[3][1:-1]}", text)
    text = re.sub(r"\[format\('([^']*)\{0\}([^']*)', '([^']*)'\)\]", r"\1\3\2", text)
    return re.sub(r"^\['([^']*)'\]$", r"\1", text)


def _guid(arguments: str) -> str:
    """Return what guid() returns in Azure."""
    parts = [part.strip().strip("'") for part in arguments.split(",")]
    return str(uuid.uuid5(_GUIDS, "-".join(parts)))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
