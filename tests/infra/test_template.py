"""What `infra/main.bicep` creates, held against the official descriptions of Azure's resources."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from . import bicep, specs
from .bicep import MAIN, ROOT, Deployment, Resource, TemplateError, deploy

FILES = [MAIN, *sorted((MAIN.parent / "modules").glob("*.bicep"))]
IMAGE = "cciacr.azurecr.io/cci-session:1"
PRINCIPAL = "11111111-1111-4111-8111-111111111111"
EXECUTOR = "0fb8eba5-a2bb-4abe-b1c1-49dfad359bb0"
ROLES = {
    "7f951dda-4ed3-4680-a7ca-43fe172d538d": "AcrPull",
    EXECUTOR: "Azure ContainerApps Session Executor",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "db58b8e5-c6ad-4a2a-8342-4190687cbf4a": "Storage Blob Delegator",
    "53ca6127-db72-4b80-b1b0-d745d6d5456d": "Foundry User",
}
VERSIONS = {
    "Microsoft.App": "2025-10-02-preview",
    "Microsoft.Authorization": "2022-04-01",
    "Microsoft.CognitiveServices": "2025-12-01",
    "Microsoft.ContainerRegistry": "2025-04-01",
    "Microsoft.ManagedIdentity": "2024-11-30",
    "Microsoft.Storage": "2025-01-01",
}
NAMES = {  # where no description of Azure's is at hand: Azure's rules for resource names
    "Microsoft.App/containerApps": r"[a-z](?!.*--)[a-z0-9-]{0,30}[a-z0-9]",
    "Microsoft.ContainerRegistry/registries": r"[a-zA-Z0-9]{5,50}",
    "Microsoft.ManagedIdentity/userAssignedIdentities": r"[a-zA-Z0-9][\w-]{2,127}",
    "Microsoft.Storage/storageAccounts": r"[a-z0-9]{3,24}",
    "Microsoft.Storage/storageAccounts/blobServices": r"default",
    "Microsoft.Storage/storageAccounts/blobServices/containers": r"[a-z0-9](?!.*--)[a-z0-9-]{2,62}",
    "Microsoft.Storage/storageAccounts/managementPolicies": r"default",
    "Microsoft.Authorization/roleAssignments": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}
CHOICES = [
    {
        "kind": kind,
        "image": image,
        "deployStorage": storage,
        "deployGateway": gateway,
        "deployFoundry": foundry,
        "principalId": principal,
    }
    for kind, image, storage, gateway, foundry, principal in itertools.product(
        ["python", "custom"], ["", IMAGE], *[[False, True]] * 3, ["", PRINCIPAL]
    )
]
ALL = {
    "kind": "custom",
    "image": IMAGE,
    "deployGateway": True,
    "deployFoundry": True,
    "principalId": PRINCIPAL,
}
PLANTED = {
    "serveKey": "planted-serve-key-0123456789",
    "sessionSecret": "planted-session-secret-0123456789",
    "mcpKey": "planted-mcp-key-0123456789",
}


def name_of(choice: dict[str, Any]) -> str:
    return "-".join(k if v is True else str(v)[:6] for k, v in choice.items() if v) or "nothing"


def role_of(assignment: Resource) -> str:
    return ROLES[assignment.body["properties"]["roleDefinitionId"].rpartition("/")[2]]


def assignments(deployment: Deployment) -> set[tuple[str, str, str]]:
    """Role, kind of what it is on, and whom it is for."""
    return {
        (role_of(each), (each.scope or "").split("/")[-2], each.body["properties"]["principalId"])
        for each in deployment.of("Microsoft.Authorization/roleAssignments")
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_well_formed(path: Any) -> None:
    assert bicep.errors(bicep.parsed(path.read_bytes())) == []


def test_a_file_that_is_not_well_formed_is_noticed() -> None:
    broken = MAIN.read_bytes().replace(b"kind: kind", b"kind: = kind")
    assert bicep.errors(bicep.parsed(broken)) != []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_parameter_and_output_has_a_description(path: Any) -> None:
    silent = [each.name for each in bicep.parameters(path) if not each.description]
    silent += [name for name, words in bicep.described(path).items() if not words]
    assert silent == []


def test_only_the_parameters_of_the_modules_have_to_be_given() -> None:
    assert [each.name for each in bicep.parameters(MAIN) if each.required] == []


@pytest.mark.parametrize("choice", CHOICES, ids=name_of)
def test_every_choice_creates_its_resources(choice: dict[str, Any]) -> None:
    made = deploy(choice)
    custom = choice["kind"] == "custom"
    pool = not custom or choice["image"] != ""
    gateway = custom and pool and choice["deployGateway"]
    foundry = choice["deployFoundry"]
    expected = {
        "Microsoft.App/managedEnvironments": custom,
        "Microsoft.App/sessionPools": pool,
        "Microsoft.App/containerApps": gateway,
        "Microsoft.ContainerRegistry/registries": custom,
        "Microsoft.ManagedIdentity/userAssignedIdentities": custom,
        "Microsoft.Storage/storageAccounts": choice["deployStorage"],
        "Microsoft.Storage/storageAccounts/blobServices": choice["deployStorage"],
        "Microsoft.Storage/storageAccounts/blobServices/containers": choice["deployStorage"],
        "Microsoft.Storage/storageAccounts/managementPolicies": choice["deployStorage"],
        "Microsoft.CognitiveServices/accounts": foundry,
        "Microsoft.CognitiveServices/accounts/projects": foundry,
        "Microsoft.CognitiveServices/accounts/deployments": foundry,
        "Microsoft.CognitiveServices/accounts/projects/connections": foundry and gateway,
    }
    found = sorted(r.type for r in made.resources if "roleAssignments" not in r.type)
    assert found == sorted(kind for kind, wanted in expected.items() if wanted)
    assert len({resource.id for resource in made.resources}) == len(made.resources)


@pytest.mark.parametrize("choice", CHOICES, ids=name_of)
def test_every_choice_assigns_exactly_the_roles_it_needs(choice: dict[str, Any]) -> None:
    made = deploy(choice)
    custom, storage = choice["kind"] == "custom", choice["deployStorage"]
    pool = not custom or choice["image"] != ""
    expected = set()
    if choice["principalId"]:
        expected |= {(ROLES[EXECUTOR], "sessionPools", PRINCIPAL)} if pool else set()
        if storage:
            expected.add(("Storage Blob Data Contributor", "containers", PRINCIPAL))
            expected.add(("Storage Blob Delegator", "storageAccounts", PRINCIPAL))
        if choice["deployFoundry"]:
            expected.add(("Foundry User", "projects", PRINCIPAL))
    if custom:
        identity = made.one("Microsoft.ManagedIdentity/userAssignedIdentities").name
        own = "{" + identity + ":properties.principalId}"
        expected.add(("AcrPull", "registries", own))
        if pool and choice["deployGateway"]:
            expected.add((ROLES[EXECUTOR], "sessionPools", own))
    assert assignments(made) == expected


@pytest.mark.parametrize("choice", CHOICES, ids=name_of)
def test_every_resource_matches_azure_s_description(choice: dict[str, Any]) -> None:
    made = deploy(choice | {"mcpKey": "planted", "subnetId": "/a/subnet"})
    for resource in made.resources:
        specs.check(resource)
    for pool in made.of("Microsoft.App/sessionPools"):
        specs.check_session_pool(pool)


def test_properties_that_azure_does_not_describe_are_noticed() -> None:
    from jsonschema import ValidationError

    made = deploy(ALL)
    pool = made.one("Microsoft.App/sessionPools")
    wrong = replace(pool, body=pool.body | {"properties": {"mcpServerSetings": {}}})
    for check in (specs.check, specs.check_session_pool):
        with pytest.raises(ValidationError):
            check(wrong)
    with pytest.raises(ValidationError):
        specs.check(replace(pool, name="my-pool"))
    with pytest.raises(ValidationError):
        specs.check(replace(pool, api_version="2026-01-01"))
    with pytest.raises(ValidationError, match="nodeCount"):
        specs.check_session_pool(replace(pool, body={"properties": {"nodeCount": 1}}))
    app = made.one("Microsoft.App/containerApps")
    ingress = {"configuration": {"ingress": {"targetprt": 1}}}
    with pytest.raises(ValidationError):
        specs.check(replace(app, body=app.body | {"properties": ingress}))


def test_each_api_has_one_version() -> None:
    made = deploy(ALL)
    assert {(r.type.partition("/")[0], r.api_version) for r in made.resources} == set(
        VERSIONS.items()
    )
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    used = set(re.findall(r"'(Microsoft\.\w+)/[\w/]+@([\w-]+)'", text))
    assert used == set(VERSIONS.items())


@pytest.mark.parametrize(("name", "suffix"), [("cc", "abc"), ("cciplugins99", "abcdef99")])
def test_the_shortest_and_the_longest_names_are_allowed(name: str, suffix: str) -> None:
    made = deploy(ALL | {"name": name, "suffix": suffix})
    for resource in made.resources:
        own = resource.name.rpartition("/")[2]
        if resource.type in NAMES:
            assert re.fullmatch(NAMES[resource.type], own), resource
        elif not specs.FOLDER:
            continue
        else:
            assert specs.check(resource), resource


def test_the_names_match_the_table() -> None:
    made = deploy(ALL | {"name": "cci", "suffix": "abc123"})
    whole = {r.type.rpartition("/")[2]: r.name for r in made.resources if "/" not in r.name}
    del whole["roleAssignments"]
    assert whole == {
        "managedEnvironments": "cci-env-abc123",
        "sessionPools": "ccipoolabc123",
        "registries": "cciacrabc123",
        "userAssignedIdentities": "cci-id-abc123",
        "storageAccounts": "ccistabc123",
        "containerApps": "cci-gateway-abc123",
        "accounts": "cci-foundry-abc123",
    }


def test_every_resource_that_can_have_tags_has_them() -> None:
    made = deploy(ALL | {"name": "mine", "tags": {"owner": "me"}})
    tagged = {r.type for r in made.resources if r.body.get("tags")}
    assert all(
        r.body["tags"] == {"owner": "me", "cci-plugins": "mine"}
        for r in made.resources
        if r.type in tagged
    )
    assert {r.type for r in made.resources} - tagged == {
        "Microsoft.Authorization/roleAssignments",
        "Microsoft.CognitiveServices/accounts/projects/connections",
        "Microsoft.Storage/storageAccounts/blobServices",
        "Microsoft.Storage/storageAccounts/blobServices/containers",
        "Microsoft.Storage/storageAccounts/managementPolicies",
    }


def test_a_python_pool_has_no_egress_and_has_an_mcp_server() -> None:
    properties = deploy().one("Microsoft.App/sessionPools").body["properties"]
    assert properties == {
        "containerType": "PythonLTS",
        "poolManagementType": "Dynamic",
        "scaleConfiguration": {"maxConcurrentSessions": 10},
        "dynamicPoolConfiguration": {
            "lifecycleConfiguration": {"lifecycleType": "Timed", "cooldownPeriodInSeconds": 600}
        },
        "sessionNetworkConfiguration": {"status": "EgressDisabled"},
        "mcpServerSettings": {"isMcpServerEnabled": True},
    }


def test_a_custom_pool_keeps_its_identity_from_the_sessions() -> None:
    made = deploy(ALL | {"egress": True})
    pool = made.one("Microsoft.App/sessionPools").body
    properties = pool["properties"]
    identity = made.one("Microsoft.ManagedIdentity/userAssignedIdentities").id
    assert pool["identity"] == {"type": "UserAssigned", "userAssignedIdentities": {identity: {}}}
    assert properties["managedIdentitySettings"] == [{"identity": identity, "lifecycle": "None"}]
    assert "mcpServerSettings" not in properties
    assert properties["sessionNetworkConfiguration"] == {"status": "EgressEnabled"}
    assert properties["environmentId"] == made.one("Microsoft.App/managedEnvironments").id
    template = properties["customContainerTemplate"]
    assert template["ingress"] == {"targetPort": 6000}
    assert template["registryCredentials"]["identity"] == identity
    assert "env" not in template["containers"][0]


def test_the_storage_has_no_public_access_and_no_account_keys() -> None:
    made = deploy()
    account = made.one("Microsoft.Storage/storageAccounts").body["properties"]
    assert account["allowBlobPublicAccess"] is False
    assert account["allowSharedKeyAccess"] is False
    assert account["supportsHttpsTrafficOnly"] is True
    assert account["minimumTlsVersion"] == "TLS1_2"
    container = made.one("Microsoft.Storage/storageAccounts/blobServices/containers")
    assert container.body["properties"] == {"publicAccess": "None"}
    policy = made.one("Microsoft.Storage/storageAccounts/managementPolicies")
    (rule,) = policy.body["properties"]["policy"]["rules"]
    assert rule["enabled"] is True
    assert rule["definition"] == {
        "actions": {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": 1}}},
        "filters": {"blobTypes": ["blockBlob"], "prefixMatch": ["cci-files/"]},
    }


def test_registry_and_foundry_accept_no_account_keys() -> None:
    made = deploy(ALL)
    registry = made.one("Microsoft.ContainerRegistry/registries").body["properties"]
    assert registry == {"adminUserEnabled": False, "anonymousPullEnabled": False}
    account = made.one("Microsoft.CognitiveServices/accounts").body["properties"]
    assert account["disableLocalAuth"] is True


def test_a_subnet_is_used_if_one_is_passed() -> None:
    def network(**more: str) -> Any:
        made = deploy({"kind": "custom"} | more)
        return made.one("Microsoft.App/managedEnvironments").body["properties"]

    assert "vnetConfiguration" not in network()
    assert network(subnetId="/s")["vnetConfiguration"] == {"infrastructureSubnetId": "/s"}


def test_secrets_are_only_in_fields_that_azure_treats_as_secrets() -> None:
    for kind in ("python", "custom"):
        made = deploy(ALL | PLANTED | {"kind": kind})
        for app in made.of("Microsoft.App/containerApps"):
            secrets = app.body["properties"]["configuration"].pop("secrets")
            assert secrets == [
                {"name": "serve-key", "value": PLANTED["serveKey"]},
                {"name": "session-secret", "value": PLANTED["sessionSecret"]},
            ]
        connection = made.one("Microsoft.CognitiveServices/accounts/projects/connections")
        key = connection.body["properties"].pop("credentials")["keys"]["x-ms-apikey"]
        assert key == PLANTED["mcpKey" if kind == "python" else "serveKey"]
        rest = json.dumps([[r.name, r.scope, r.body] for r in made.resources] + [made.outputs])
        assert [secret for secret in PLANTED.values() if secret in rest] == []


def test_missing_secrets_are_created() -> None:
    def secrets() -> list[str]:
        app = deploy(ALL).one("Microsoft.App/containerApps")
        return [each["value"] for each in app.body["properties"]["configuration"]["secrets"]]

    first, second = secrets(), secrets()
    assert len({*first, *second}) == 4
    assert all(len(value) == 36 for value in first)


def test_every_deployment_restarts_the_gateway_so_that_it_reads_new_secrets() -> None:
    app = deploy(ALL | {"revision": "20261123000000"}).one("Microsoft.App/containerApps")
    assert app.body["properties"]["template"]["revisionSuffix"] == "r20261123000000"
    template = deploy(ALL).one("Microsoft.App/containerApps").body["properties"]["template"]
    assert re.fullmatch(r"r\d{14}", template["revisionSuffix"])


def test_keys_are_never_read_and_secrets_are_declared_secure() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FILES).lower()
    for word in ("listkeys", "listsecrets", "listcredentials", "fetchmcp", "deploymentscripts"):
        assert word not in text
    for path in FILES:
        for each in bicep.parameters(path):
            assert each.secure is bool(re.search(r"(key|secret)$", each.name, re.IGNORECASE))
        assert [n for n in bicep.described(path) if re.search("key|secret", n, re.IGNORECASE)] == []


def test_the_outputs_are_the_settings_of_the_package() -> None:
    from cci_plugins.common.settings import Settings

    ours = {
        name
        for field in Settings.model_fields.values()
        for name in field.validation_alias.choices  # type: ignore[union-attr]
    }
    elsewhere = {  # of azd, of the Azure CLI, of Foundry
        "AZURE_AI_MODEL_DEPLOYMENT_NAME",
        "AZURE_AI_PROJECT_ENDPOINT",
        "AZURE_CONTAINER_REGISTRY_ENDPOINT",
        "AZURE_RESOURCE_GROUP",
        "AZURE_STORAGE_ACCOUNT",
        "AZURE_STORAGE_CONTAINER",
    }
    assert set(deploy(ALL).outputs) - elsewhere - ours == set()


@pytest.mark.parametrize("kind", ["python", "custom"])
def test_the_outputs_configure_the_package(kind: str, monkeypatch: Any, tmp_path: Any) -> None:
    from cci_plugins.common.settings import Settings

    monkeypatch.chdir(tmp_path)
    for name, value in deploy(ALL | {"kind": kind}).outputs.items():
        monkeypatch.setenv(name, value)
    settings = Settings.read()
    assert settings.chosen_pool == {"python": "platform", "custom": "custom"}[kind]


def test_a_dropped_mcp_server_leaves_the_endpoint_empty() -> None:
    source = (MAIN.parent / "modules" / "pool.bicep").read_text(encoding="utf-8")
    assert "pool.properties.?mcpServerSettings.?mcpServerEndpoint ?? ''" in source


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "shell"},
        {"maxSessions": 1},
        {"cooldownSeconds": 60},
        {"name": "a"},
        {"suffix": "toolongsuffix"},
        {"principalType": "Robot"},
    ],
    ids=str,
)
def test_a_wrong_parameter_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        deploy(wrong)


@pytest.mark.parametrize("wrong", [{"nothing": 1}, {"maxSessions": "10"}, {"deployStorage": 1}])
def test_a_parameter_of_another_name_or_type_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TemplateError, match=next(iter(wrong))):
        deploy(wrong)


def test_the_evaluator_notices_references_to_missing_resources(tmp_path: Any) -> None:
    (tmp_path / "part.bicep").write_text("output here string = 'x'\n")
    main = tmp_path / "main.bicep"
    main.write_text(
        "param yes bool\nmodule part 'part.bicep' = if (yes) {\n  name: 'p'\n}\n"
        "output there string = part!.outputs.here\n"
    )
    assert deploy({"yes": True}, path=main).outputs == {"there": "x"}
    with pytest.raises(TemplateError, match="not deployed"):
        deploy({"yes": False}, path=main)


def test_the_container_s_readme_shows_the_pool_s_template() -> None:
    readme = (ROOT / "infra" / "container" / "README.md").read_text(encoding="utf-8")
    (container,) = (
        deploy(ALL)
        .one("Microsoft.App/sessionPools")
        .body["properties"]["customContainerTemplate"]["containers"]
    )
    assert container["image"] == IMAGE
    for probe in container["probes"]:
        assert f"failureThreshold: {probe['failureThreshold']}" in readme
