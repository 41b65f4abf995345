"""Id, API version and body of each resource of Microsoft Foundry, from the options alone.

An account and a project are either created, with names that are computed, or named by their ids.
"""

from __future__ import annotations

import re
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.foundry_connection import NAME, build_properties
from cci_plugins.azure.resource import Resource

from .options import Options
from .tags import build_tags

ACCOUNT = "Microsoft.CognitiveServices/accounts"
PROJECT = f"{ACCOUNT}/projects"
MODEL = f"{ACCOUNT}/deployments"
CONNECTION = f"{PROJECT}/connections"
PROVIDER = "Microsoft.CognitiveServices"


def get_account_id(options: Options) -> str:
    """Return the resource id of the account: the named one, or the one that is created."""
    if options.foundry_account is not None:
        return options.foundry_account
    if options.foundry_project is not None:
        return re.split("/projects/", options.foundry_project, flags=re.IGNORECASE)[0]
    return get_own_account_id(options)


def get_own_account_id(options: Options) -> str:
    """Return the resource id of the account that is created where none is named."""
    return f"{options.group_id}/providers/{ACCOUNT}/{options.name}-foundry-{options.suffix}"


def get_project_id(options: Options) -> str:
    """Return the resource id of the project: the named one, or the one that is created."""
    if options.foundry_project is not None:
        return options.foundry_project
    # an account of somebody else may serve several deployments
    name = f"{options.name}-project"
    if options.foundry_account is not None:
        name = f"{name}-{options.suffix}"
    return f"{get_account_id(options)}/projects/{name}"


def owns_account(options: Options) -> bool:
    """Return whether the account is created, not named."""
    return options.foundry_account is None and options.foundry_project is None


def build_account(options: Options, *, restore: bool = False) -> Resource:
    """Build the Foundry account. Its keys open nothing: who uses it signs in.

    Args:
        options: What to provision.
        restore: Whether to restore the account of that name that was deleted.
    """
    identifier = get_account_id(options)
    name = identifier.rpartition("/")[2]
    properties: dict[str, Any] = {
        "allowProjectManagement": True,
        "customSubDomainName": name,
        "disableLocalAuth": True,
    }
    if restore:
        properties["restore"] = True
    body = {
        "location": options.location,
        "tags": build_tags(options),
        "kind": "AIServices",
        "sku": {"name": "S0"},
        "identity": {"type": "SystemAssigned"},
        "properties": properties,
    }
    return _build(ACCOUNT, identifier, body)


def build_project(options: Options, *, location: str = "") -> Resource:
    """Build the Foundry project.

    Args:
        options: What to provision.
        location: Region of its account, if that is a named one.
    """
    identifier = get_project_id(options)
    name = identifier.rpartition("/")[2]
    body = {
        "location": location or options.location,
        "tags": build_tags(options),
        "identity": {"type": "SystemAssigned"},
        "properties": {
            "displayName": name,
            "description": "Agents with a code interpreter.",
        },
    }
    return _build(PROJECT, identifier, body)


def build_model(options: Options) -> Resource:
    """Build the deployment of the model, which has the model's name."""
    model = {"format": "OpenAI", "name": options.model}
    if options.model_version:
        model["version"] = options.model_version
    body = {
        "tags": build_tags(options),
        "sku": {"name": options.model_sku, "capacity": options.model_capacity},
        "properties": {"model": model},
    }
    return _build(MODEL, f"{get_account_id(options)}/deployments/{options.model}", body)


def build_connection(options: Options, endpoint: str = "", key: str = "") -> Resource:
    """Build the project's connection to the pool's MCP endpoint.

    Args:
        options: What to provision.
        endpoint: The MCP endpoint.
        key: Its key.
    """
    identifier = f"{get_project_id(options)}/connections/{NAME}"
    return _build(
        CONNECTION, identifier, {"properties": build_properties(identifier, endpoint, key)}
    )


def list_foundry_resources(options: Options, *, location: str = "") -> list[Resource]:
    """Return each resource of Foundry that is created, in the order of their creation."""
    if not options.foundry:
        return []
    found = [build_account(options)] if owns_account(options) else []
    if options.foundry_project is None:
        found.append(build_project(options, location=location))
    return [*found, build_model(options), build_connection(options)]


def _build(kind: str, identifier: str, body: dict[str, Any]) -> Resource:
    return Resource(type=kind, id=identifier, api_version=api_versions.OF_TYPE[kind], body=body)
