"""The templates and `cci provision up` create the same resources."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from cci_plugins.provisioning import Options, resources
from cci_plugins.provisioning.access import (
    build_assignment,
    list_identity_roles,
    list_user_roles,
)
from cci_plugins.provisioning.deployment import build_deployment
from cci_plugins.provisioning.plan import list_resources

from .snapshots import GROUP, SHAPES, Deployment, load

PRINCIPAL = "11111111-1111-4111-8111-111111111111"
SUBSCRIPTION = GROUP.split("/")[2]
IMAGE = "cciacrabc123.azurecr.io/cci-session:1"
SHARED = f"/subscriptions/{SUBSCRIPTION}/resourceGroups"
CUSTOM = {"kind": "custom", "image": IMAGE}
CHOICES: dict[str, dict[str, Any]] = {
    "python": {},
    "python-egress": {
        "name": "mine",
        "location": "westus2",
        "tags": {"team": "data"},
        "max_sessions": 7,
        "cooldown": timedelta(seconds=900),
        "egress": True,
    },
    "python-no-storage": {"storage": False},
    "python-foundry": {"foundry": True},
    "custom-no-image": {"kind": "custom"},
    "custom": {**CUSTOM, "ready_sessions": 2},
    "custom-gateway": {**CUSTOM, "gateway": True},
    "custom-compute": {
        **CUSTOM,
        "cpu": 2,
        "memory": "4Gi",
        "env": {"REGION": "north", "API_URL": "https://api.example.com"},
        "secrets": {"API_TOKEN": "a-secret-value"},
        "logs": True,
    },
    "custom-subnet": {
        **CUSTOM,
        "subnet": f"{SHARED}/network/providers/Microsoft.Network/virtualNetworks/vnet/subnets/"
        "sessions",
    },
    "custom-environment": {
        **CUSTOM,
        "gateway": True,
        "environment": f"{SHARED}/shared/providers/Microsoft.App/managedEnvironments/apps",
    },
    "custom-registry": {
        "kind": "custom",
        "image": "example.azurecr.io/analysis:3",
        "registry_identity": f"{SHARED}/shared/providers/Microsoft.ManagedIdentity/"
        "userAssignedIdentities/puller",
        "env": {"REGION": "north"},
        "secrets": {"API_TOKEN": "a-secret-value"},
    },
    "custom-foundry": {**CUSTOM, "foundry": True},
}
# The command does not create it: the account has it from the start.
BLOB_SERVICE = "Microsoft.Storage/storageAccounts/blobServices"


def build_options(shape: str) -> Options:
    return Options(
        **{
            "subscription": SUBSCRIPTION,
            "resource_group": GROUP.rpartition("/")[2],
            "location": "eastus",
            "suffix": "abc123",
            "principal_id": PRINCIPAL,
            **CHOICES[shape],
        }
    )


def test_each_choice_is_compared() -> None:
    assert sorted(CHOICES) == SHAPES


@pytest.mark.parametrize("shape", SHAPES)
def test_the_templates_and_the_command_create_the_same(shape: str) -> None:
    options, made = build_options(shape), load(shape)
    by_command = list_by_command(options, has_pool=shape != "custom-no-image")
    by_templates = list_by_templates(made)
    assert sorted(by_command) == sorted(by_templates)
    for identifier, body in by_command.items():
        assert body == by_templates[identifier]


@pytest.mark.parametrize("shape", [one for one in SHAPES if one != "custom-no-image"])
def test_the_templates_and_the_command_give_the_same_settings(shape: str) -> None:
    options, made = build_options(shape), load(shape)
    pool = resources.build_pool(options)
    endpoint = f"{{{pool.name}:properties.poolManagementEndpoint}}"
    found = {"id": pool.id, "properties": {"poolManagementEndpoint": endpoint}}
    deployment = build_deployment(options, found, kind=options.kind, storage=options.storage)
    settings = deployment.environment()
    assert settings.items() <= made.outputs.items()
    ours = {name for name in made.outputs if made.outputs[name] and not is_of_others(name)}
    assert ours - set(settings) <= {"AZURE_SESSION_POOL_MCP_ENDPOINT"}  # of the gateway


def is_of_others(name: str) -> bool:
    return name.startswith(("AZURE_AI", "MCP_PROJECT", "AZURE_CONTAINER", "AZURE_RESOURCE"))


def list_by_templates(made: Deployment) -> dict[str, Any]:
    """Return version and body of each resource of the templates by its id."""
    return {
        each.id: (each.api_version, plain(each.body))
        for each in made.resources
        if each.type != BLOB_SERVICE
    }


def list_by_command(options: Options, *, has_pool: bool) -> dict[str, Any]:
    """Return version and body of each resource of the command by its id.

    Values that only Azure knows are written as they are in the snapshots.
    """
    image = options.image or ""
    identity = "{" + resources.build_identity(options).name + ":properties."
    pool = resources.build_pool(options)
    found = [
        one
        for one in list_resources(options, image)
        if one.kind not in {"resource group", "gateway"} and (has_pool or one.id != pool.id)
    ]
    if options.gateway:
        found.append(
            resources.build_gateway(
                options,
                image,
                pool_endpoint="{" + pool.name + ":properties.poolManagementEndpoint}",
                client_id=f"{identity}clientId}}",
                secrets={resources.SERVE_KEY: "key", resources.SESSION_SECRET: "secret"},
            )
        )
    for role, scope in list_user_roles(options):
        if has_pool or scope != pool.id:
            found.append(build_assignment(options, scope, role, PRINCIPAL, "User"))
    for role, scope in list_identity_roles(options):
        found.append(
            build_assignment(options, scope, role, f"{identity}principalId}}", "ServicePrincipal")
        )
    registry = resources.build_registry(options).name
    known = {resources.build_login_server(options): f"{{{registry}:properties.loginServer}}"}
    return {one.id: (one.api_version, plain(one.body, known)) for one in found}


def plain(value: Any, known: Mapping[str, str] | None = None, name: str = "") -> Any:
    """Return a body without the parts that differ between deployments."""
    if name == "secrets":  # the compiler does not show their values
        return [one["name"] for one in value]
    if name == "keys":
        return list(value)
    if name == "target":  # it depends on what Azure assigns
        return "an MCP endpoint"
    if isinstance(value, Mapping):
        return {
            key: plain(item, known, key)
            for key, item in value.items()
            # the one restarts the gateway, and a template cannot make the other, a fingerprint
            if key not in {"revisionSuffix", "metadata"}
        }
    if isinstance(value, list):
        return [plain(item, known) for item in value]
    return (known or {}).get(value, value) if isinstance(value, str) else value
