"""`infra/main.bicep` and `cci provision up` create the same resources."""

from __future__ import annotations

import itertools
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
from cci_plugins.provisioning.plan import list_resources

from .bicep import Deployment, Resource, deploy
from .bicep_functions import GROUP

PRINCIPAL = "11111111-1111-4111-8111-111111111111"
SUBSCRIPTION = GROUP["id"].split("/")[2]
NAME = GROUP["id"].split("/")[4]
CHOICES = [
    {"kind": kind, "storage": storage, "gateway": gateway, "egress": egress}
    for kind, storage, gateway, egress in itertools.product(
        ["python", "custom"], *[[False, True]] * 3
    )
    if kind == "custom" or not gateway
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))
def test_the_templates_and_the_command_create_the_same(choice: dict[str, Any]) -> None:
    options = Options(
        subscription=SUBSCRIPTION,
        resource_group=NAME,
        location="westus2",
        name="mine",
        suffix="abc123",
        tags={"team": "data"},
        max_sessions=7,
        ready_sessions=2,
        cooldown=timedelta(seconds=900),
        principal_id=PRINCIPAL,
        **choice,
    )
    image = resources.build_image_name(options, "1") if options.builds_image else ""
    made = deploy(
        {
            "kind": options.kind,
            "location": options.location,
            "name": options.name,
            "suffix": options.suffix,
            "tags": dict(options.tags),
            "maxSessions": options.max_sessions,
            "readySessions": options.ready_sessions,
            "cooldownSeconds": 900,
            "egress": options.egress,
            "deployStorage": options.storage,
            "deployGateway": options.gateway,
            "principalId": PRINCIPAL,
            "image": image,
            "serveKey": "planted-serve-key-0123456789",
            "sessionSecret": "planted-session-secret-0123456789",
        }
    )
    assert by_the_command(options, image, made) == by_the_templates(made)


def by_the_templates(made: Deployment) -> dict[str, Any]:
    """Return each resource of the templates by its id."""
    return {
        each.id: (each.api_version, plain(each.body))
        for each in made.resources
        # the account has this one from the start
        if each.type != "Microsoft.Storage/storageAccounts/blobServices"
    }


def by_the_command(options: Options, image: str, made: Deployment) -> dict[str, Any]:
    """Return each resource of the command by its id.

    Values that only Azure knows are written as the templates' evaluator writes them.
    """
    identity = "{" + resources.build_identity(options).name + ":properties."
    pool = resources.build_pool(options).name
    found = [
        one
        for one in list_resources(options, image)
        if one.kind not in {"resource group", "gateway"}
    ]
    if options.gateway:
        found.append(
            resources.build_gateway(
                options,
                image,
                pool_endpoint="{" + pool + ":properties.poolManagementEndpoint}",
                client_id=f"{identity}clientId}}",
                secrets={
                    resources.SERVE_KEY: "planted-serve-key-0123456789",
                    resources.SESSION_SECRET: "planted-session-secret-0123456789",
                },
            )
        )
    for role, scope in list_user_roles(options):
        found.append(build_assignment(options, scope, role, PRINCIPAL, "User"))
    for role, scope in list_identity_roles(options):
        found.append(
            build_assignment(options, scope, role, f"{identity}principalId}}", "ServicePrincipal")
        )
    known = {resources.build_login_server(options): login(made)}
    return {one.id: (one.api_version, plain(one.body, known)) for one in found}


def login(made: Deployment) -> str:
    """Return the registry's host name, which only Azure knows."""
    found: list[Resource] = made.of("Microsoft.ContainerRegistry/registries")
    return "{" + found[0].name + ":properties.loginServer}" if found else "none"


def plain(value: Any, known: Mapping[str, str] | None = None) -> Any:
    """Return a body without the parts that differ between deployments."""
    if isinstance(value, Mapping):
        return {
            name: plain(item, known)
            for name, item in value.items()
            if name != "revisionSuffix"  # makes every deployment restart the gateway
        }
    if isinstance(value, list):
        return [plain(item, known) for item in value]
    return (known or {}).get(value, value) if isinstance(value, str) else value
