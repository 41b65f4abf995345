"""What `infra/main.bicep` creates, held against the official descriptions of Azure's resources."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from . import specs
from .snapshots import (
    MAIN,
    ROOT,
    SHAPES,
    Deployment,
    Resource,
    iter_templates,
    list_parameters,
    load,
    load_template,
)

FILES = [MAIN, *sorted((MAIN.parent / "modules").glob("*.bicep"))]
IMAGE = "cciacrabc123.azurecr.io/cci-session:1"
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
    "Microsoft.App": {"2026-07-01", "2025-10-02-preview"},  # the preview: only Python pools
    "Microsoft.Authorization": {"2022-04-01"},
    "Microsoft.CognitiveServices": {"2025-12-01"},
    "Microsoft.ContainerRegistry": {"2025-04-01"},
    "Microsoft.Insights": {"2021-05-01-preview"},
    "Microsoft.ManagedIdentity": {"2024-11-30"},
    "Microsoft.OperationalInsights": {"2025-02-01"},
    "Microsoft.Storage": {"2025-01-01"},
}
NAMES = {  # where no description of Azure's is at hand: Azure's rules for resource names
    "Microsoft.App/containerApps": r"[a-z](?!.*--)[a-z0-9-]{0,30}[a-z0-9]",
    "Microsoft.ContainerRegistry/registries": r"[a-zA-Z0-9]{5,50}",
    "Microsoft.ManagedIdentity/userAssignedIdentities": r"[a-zA-Z0-9][\w-]{2,127}",
    "Microsoft.Insights/diagnosticSettings": r"[\w-]{1,260}",
    "Microsoft.OperationalInsights/workspaces": r"[a-zA-Z0-9][a-zA-Z0-9-]{2,61}[a-zA-Z0-9]",
    "Microsoft.Storage/storageAccounts": r"[a-z0-9]{3,24}",
    "Microsoft.Storage/storageAccounts/blobServices": r"default",
    "Microsoft.Storage/storageAccounts/blobServices/containers": r"[a-z0-9](?!.*--)[a-z0-9-]{2,62}",
    "Microsoft.Storage/storageAccounts/managementPolicies": r"default",
    "Microsoft.Authorization/roleAssignments": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}
STORAGE = {
    "Microsoft.Storage/storageAccounts",
    "Microsoft.Storage/storageAccounts/blobServices",
    "Microsoft.Storage/storageAccounts/blobServices/containers",
    "Microsoft.Storage/storageAccounts/managementPolicies",
}
POOL = {"Microsoft.App/sessionPools"}
IDENTITY = {"Microsoft.ManagedIdentity/userAssignedIdentities"}
REGISTRY = {"Microsoft.ContainerRegistry/registries"} | IDENTITY
ENVIRONMENT = {"Microsoft.App/managedEnvironments"}
GATEWAY = {"Microsoft.App/containerApps"}
LOGS = {"Microsoft.OperationalInsights/workspaces", "Microsoft.Insights/diagnosticSettings"}
FOUNDRY = {
    "Microsoft.CognitiveServices/accounts",
    "Microsoft.CognitiveServices/accounts/projects",
    "Microsoft.CognitiveServices/accounts/deployments",
    "Microsoft.CognitiveServices/accounts/projects/connections",
}
EXPECTED = {
    "python": POOL | STORAGE,
    "python-egress": POOL | STORAGE,
    "python-no-storage": POOL,
    "python-foundry": POOL | STORAGE | FOUNDRY,
    "custom-no-image": STORAGE | REGISTRY | ENVIRONMENT,
    "custom": POOL | STORAGE | REGISTRY | ENVIRONMENT,
    "custom-gateway": POOL | STORAGE | REGISTRY | ENVIRONMENT | GATEWAY,
    "custom-compute": POOL | STORAGE | REGISTRY | ENVIRONMENT | LOGS,
    "custom-subnet": POOL | STORAGE | REGISTRY | ENVIRONMENT,
    "custom-environment": POOL | STORAGE | REGISTRY | GATEWAY,
    "custom-registry": POOL | STORAGE | ENVIRONMENT,
    "custom-foundry": POOL | STORAGE | REGISTRY | ENVIRONMENT | GATEWAY | FOUNDRY,
}


def get_role(assignment: Resource) -> str:
    return ROLES[assignment.body["properties"]["roleDefinitionId"].rpartition("/")[2]]


def list_assignments(deployment: Deployment) -> set[tuple[str, str, str]]:
    """Return role, kind of what it is on, and whom it is for."""
    return {
        (get_role(each), each.scope.split("/")[-2], each.body["properties"]["principalId"])
        for each in deployment.of("Microsoft.Authorization/roleAssignments")
    }


def get_pool(shape: str) -> dict[str, Any]:
    return load(shape).one("Microsoft.App/sessionPools").body["properties"]


def test_every_parameter_and_output_has_a_description() -> None:
    silent = []
    for name, template in iter_templates():
        silent += [(name, one.name) for one in list_parameters(template) if not one.description]
        for output, one in template.get("outputs", {}).items():
            if not one.get("metadata", {}).get("description"):
                silent.append((name, output))
    assert silent == []


def test_only_the_parameters_of_the_modules_have_to_be_given() -> None:
    assert [each.name for each in list_parameters(load_template()) if each.is_required] == []


@pytest.mark.parametrize("shape", SHAPES)
def test_every_choice_creates_its_resources(shape: str) -> None:
    made = load(shape).resources
    found = sorted(one.type for one in made if "roleAssignments" not in one.type)
    containers = "Microsoft.Storage/storageAccounts/blobServices/containers"
    twice = [containers] if containers in found else []  # for files, and for saved sessions
    assert found == sorted([*EXPECTED[shape], *twice])
    assert len({resource.id for resource in made}) == len(made)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_choice_assigns_exactly_the_roles_it_needs(shape: str) -> None:
    kinds, expected = EXPECTED[shape], set()
    if kinds >= POOL:
        expected.add((ROLES[EXECUTOR], "sessionPools", PRINCIPAL))
    if kinds >= STORAGE:
        expected.add(("Storage Blob Data Contributor", "containers", PRINCIPAL))
        expected.add(("Storage Blob Delegator", "storageAccounts", PRINCIPAL))
    if kinds >= FOUNDRY:
        expected.add(("Foundry User", "projects", PRINCIPAL))
    own = "{cci-id-abc123:properties.principalId}"
    if kinds >= REGISTRY:
        expected.add(("AcrPull", "registries", own))
    if kinds >= GATEWAY:
        expected.add((ROLES[EXECUTOR], "sessionPools", own))
    assert list_assignments(load(shape)) == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_every_resource_matches_azure_s_description(shape: str) -> None:
    for resource in load(shape).resources:
        specs.check(resource)
        if resource.type == "Microsoft.App/sessionPools":
            specs.check_session_pool(resource)


def test_properties_that_azure_does_not_describe_are_noticed() -> None:
    from jsonschema import ValidationError

    made = load("custom-gateway")
    pool = made.one("Microsoft.App/sessionPools")
    for settings in ("mcpServerSetings", "mcpServerSettings"):  # stable versions have neither
        wrong = replace(pool, body=pool.body | {"properties": {settings: {}}})
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
    found: dict[str, set[str]] = {}
    for shape in SHAPES:
        for one in load(shape).resources:
            found.setdefault(one.type.partition("/")[0], set()).add(one.api_version)
    assert found == VERSIONS
    for shape in SHAPES:
        for one in load(shape).resources:
            is_python = one.body.get("properties", {}).get("containerType") == "PythonLTS"
            if one.type.startswith("Microsoft.App/"):
                assert (one.api_version == "2025-10-02-preview") is is_python, one.name


def test_the_bounds_of_the_names_fit_azure_s_rules() -> None:
    bounds = {each.name: each.bounds for each in list_parameters(load_template())}
    assert bounds["name"] == {"minLength": 2, "maxLength": 12}
    assert bounds["suffix"] == {"minLength": 3, "maxLength": 8}
    for shape in SHAPES:
        for resource in load(shape).resources:
            own = resource.name.rpartition("/")[2]
            for name, suffix in (("cc", "abc"), ("cciplugins99", "abcdef99")):
                renamed = own.replace("abc123", suffix).replace("mine", "cci")
                renamed = re.sub(r"^cci", name, renamed) if suffix in renamed else renamed
                if resource.type in NAMES:
                    assert re.fullmatch(NAMES[resource.type], renamed), resource


def test_the_names_match_the_table() -> None:
    shapes = ("custom-compute", "custom-foundry")
    made = [one for shape in shapes for one in load(shape).resources]
    whole = {r.type.rpartition("/")[2]: r.name for r in made if "/" not in r.name}
    del whole["roleAssignments"], whole["diagnosticSettings"]
    assert whole == {
        "managedEnvironments": "cci-env-abc123",
        "sessionPools": "ccipoolabc123",
        "registries": "cciacrabc123",
        "userAssignedIdentities": "cci-id-abc123",
        "storageAccounts": "ccistabc123",
        "containerApps": "cci-gateway-abc123",
        "workspaces": "cci-logs-abc123",
        "accounts": "cci-foundry-abc123",
    }


def test_every_resource_that_can_have_tags_has_them() -> None:
    tagged = [one for one in load("python-egress").resources if "tags" in one.body]
    assert [one.body["tags"] for one in tagged] == [{"team": "data", "cci-plugins": "mine"}] * 2
    untagged = {
        one.type for shape in SHAPES for one in load(shape).resources if "tags" not in one.body
    }
    assert untagged == {
        "Microsoft.Authorization/roleAssignments",
        "Microsoft.CognitiveServices/accounts/projects/connections",
        "Microsoft.Insights/diagnosticSettings",
        "Microsoft.Storage/storageAccounts/blobServices",
        "Microsoft.Storage/storageAccounts/blobServices/containers",
        "Microsoft.Storage/storageAccounts/managementPolicies",
    }


def test_a_python_pool_has_no_egress_and_has_an_mcp_server() -> None:
    assert get_pool("python") == {
        "containerType": "PythonLTS",
        "poolManagementType": "Dynamic",
        "scaleConfiguration": {"maxConcurrentSessions": 10},
        "dynamicPoolConfiguration": {
            "lifecycleConfiguration": {"lifecycleType": "Timed", "cooldownPeriodInSeconds": 600}
        },
        "sessionNetworkConfiguration": {"status": "EgressDisabled"},
        "mcpServerSettings": {"isMcpServerEnabled": True},
    }
    assert get_pool("python-egress")["sessionNetworkConfiguration"] == {"status": "EgressEnabled"}


def test_a_custom_pool_keeps_its_identity_from_the_sessions() -> None:
    made = load("custom")
    pool = made.one("Microsoft.App/sessionPools").body
    properties = pool["properties"]
    identity = made.one("Microsoft.ManagedIdentity/userAssignedIdentities").id
    assert pool["identity"] == {"type": "UserAssigned", "userAssignedIdentities": {identity: {}}}
    assert properties["managedIdentitySettings"] == [{"identity": identity, "lifecycle": "None"}]
    assert "mcpServerSettings" not in properties
    assert "secrets" not in properties
    assert properties["environmentId"] == made.one("Microsoft.App/managedEnvironments").id
    template = properties["customContainerTemplate"]
    assert template["ingress"] == {"targetPort": 6000}
    assert template["registryCredentials"]["identity"] == identity


def test_cpu_memory_and_variables_reach_the_container() -> None:
    pool = get_pool("custom-compute")
    (container,) = pool["customContainerTemplate"]["containers"]
    assert container["resources"] == {"cpu": 2, "memory": "4Gi"}
    assert container["env"] == [
        {"name": "CCI_CONTAINER_CPU", "value": "2"},
        {"name": "CCI_CONTAINER_MEMORY", "value": "4Gi"},
        {"name": "CCI_SESSION_ENV_API_URL", "value": "https://api.example.com"},
        {"name": "CCI_SESSION_ENV_REGION", "value": "north"},
        {"name": "CCI_SESSION_ENV_API_TOKEN", "secretRef": "api-token"},
    ]
    (secret,) = pool["secrets"]
    assert secret["name"] == "api-token"
    assert "secretValues" in secret["value"]


def test_an_image_of_another_program_gets_plain_names_and_its_registry_s_identity() -> None:
    made = load("custom-registry").one("Microsoft.App/sessionPools").body
    template = made["properties"]["customContainerTemplate"]
    assert template["containers"][0]["env"] == [
        {"name": "REGION", "value": "north"},
        {"name": "API_TOKEN", "secretRef": "api-token"},
    ]
    (identity,) = made["identity"]["userAssignedIdentities"]
    assert identity.endswith("/puller")
    assert template["registryCredentials"] == {"server": "example.azurecr.io", "identity": identity}
    assert made["properties"]["managedIdentitySettings"][0]["lifecycle"] == "None"


def test_an_existing_environment_is_used_and_not_created() -> None:
    made = load("custom-environment")
    app = made.one("Microsoft.App/containerApps").body["properties"]
    assert get_pool("custom-environment")["environmentId"].endswith("/managedEnvironments/apps")
    assert app["environmentId"].endswith("/managedEnvironments/apps")
    assert "workloadProfileName" not in app  # it may have another one, or none


def test_logs_go_to_a_workspace_that_is_created_for_them() -> None:
    made = load("custom-compute")
    environment = made.one("Microsoft.App/managedEnvironments")
    logs = made.one("Microsoft.Insights/diagnosticSettings")
    assert environment.body["properties"]["appLogsConfiguration"] == {
        "destination": "azure-monitor"
    }
    assert logs.scope == environment.id
    workspace = made.one("Microsoft.OperationalInsights/workspaces").id
    assert logs.body["properties"]["workspaceId"] == workspace


def test_the_storage_has_no_public_access_and_no_account_keys() -> None:
    made = load("python")
    account = made.one("Microsoft.Storage/storageAccounts").body["properties"]
    assert account["allowBlobPublicAccess"] is False
    assert account["allowSharedKeyAccess"] is False
    assert account["supportsHttpsTrafficOnly"] is True
    assert account["minimumTlsVersion"] == "TLS1_2"
    containers = made.of("Microsoft.Storage/storageAccounts/blobServices/containers")
    assert [one.body["properties"] for one in containers] == [{"publicAccess": "None"}] * 2
    policy = made.one("Microsoft.Storage/storageAccounts/managementPolicies")
    rule, checkpoints = policy.body["properties"]["policy"]["rules"]
    assert rule["enabled"] is True
    assert rule["definition"] == {
        "actions": {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": 1}}},
        "filters": {"blobTypes": ["blockBlob"], "prefixMatch": ["cci-files/"]},
    }
    assert checkpoints["definition"] == {
        "actions": {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": 30}}},
        "filters": {"blobTypes": ["blockBlob"], "prefixMatch": ["cci-checkpoints/"]},
    }


def test_registry_and_foundry_accept_no_account_keys() -> None:
    made = load("custom-foundry")
    registry = made.one("Microsoft.ContainerRegistry/registries").body["properties"]
    assert registry == {"adminUserEnabled": False, "anonymousPullEnabled": False}
    account = made.one("Microsoft.CognitiveServices/accounts").body["properties"]
    assert account["disableLocalAuth"] is True


def test_a_subnet_is_used_if_one_is_passed() -> None:
    def get_network(shape: str) -> Any:
        return load(shape).one("Microsoft.App/managedEnvironments").body["properties"]

    assert "vnetConfiguration" not in get_network("custom")
    subnet = get_network("custom-subnet")["vnetConfiguration"]["infrastructureSubnetId"]
    assert subnet.endswith("/subnets/sessions")


def test_secrets_are_only_in_fields_that_azure_treats_as_secrets() -> None:
    secure = [one.name for one in list_parameters(load_template()) if one.is_secure]
    assert secure == ["mcpKey", "secretValues", "serveKey", "sessionSecret"]
    for shape in SHAPES:
        made = load(shape)
        for one in made.resources:
            body = json.loads(json.dumps(one.body))
            properties = body.get("properties", {})
            properties.pop("secrets", None)
            properties.pop("credentials", None)
            properties.get("configuration", {}).pop("secrets", None)
            assert "parameters(" not in json.dumps(body), (shape, one.name)
        assert "parameters(" not in json.dumps(made.outputs)


def test_a_secret_that_is_missing_stops_the_deployment() -> None:
    variables = load_template()["variables"]
    for name, parameter in (
        ("gatewayKey", "serveKey"),
        ("gatewaySecret", "sessionSecret"),
        ("poolKey", "mcpKey"),
    ):
        assert f"empty(parameters('{parameter}'))), fail('" in variables[name]
    text = json.dumps(load_template())
    assert "newGuid" not in text  # a new key in each deployment would lock out the clients


def test_every_deployment_restarts_the_gateway_so_that_it_reads_new_secrets() -> None:
    app = load("custom-gateway").one("Microsoft.App/containerApps").body["properties"]
    assert app["template"]["revisionSuffix"] == "r20261123000000"
    (revision,) = [one for one in list_parameters(load_template()) if one.name == "revision"]
    assert revision.default == "[utcNow('yyyyMMddHHmmss')]"


def test_resources_are_created_after_what_they_need() -> None:
    waits = {name: one.get("dependsOn", []) for name, one in load_template()["resources"].items()}
    assert set(waits["gateway"]) >= {"gatewayRoles", "customPool"}
    assert set(waits["customPool"]) == {"environment", "identity", "registry"}
    assert "identity" in waits["registry"]
    assert set(waits["foundry"]) == {"gateway", "pythonPool"}


def test_keys_are_never_read_and_secrets_are_declared_secure() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FILES).lower()
    for word in ("listkeys", "listsecrets", "listcredentials", "fetchmcp", "deploymentscripts"):
        assert word not in text
    for _, template in iter_templates():
        for each in list_parameters(template):
            is_secret = re.search(r"(key|secret|secretvalues)$", each.name, re.IGNORECASE)
            assert each.is_secure is bool(is_secret), each.name
        outputs = template.get("outputs", {})
        assert [n for n in outputs if re.search("key|secret", n, re.IGNORECASE)] == []


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
    assert set(load("custom-foundry").outputs) - elsewhere - ours == set()


@pytest.mark.parametrize(
    ("shape", "pool"), [("python-foundry", "platform"), ("custom-foundry", "custom")]
)
def test_the_outputs_configure_the_package(
    shape: str, pool: str, monkeypatch: Any, tmp_path: Any
) -> None:
    from cci_plugins.common.settings import Settings

    monkeypatch.chdir(tmp_path)
    for name, value in load(shape).outputs.items():
        monkeypatch.setenv(name, value)
    settings = Settings.read()
    assert settings.chosen_pool == pool
    assert str(settings.foundry_connection).endswith("/connections/code-interpreter")


def test_a_dropped_mcp_server_leaves_the_endpoint_empty() -> None:
    template = dict(iter_templates())["pythonPool"]
    value = template["outputs"]["mcpEndpoint"]["value"]
    assert value.startswith("[coalesce(tryGet(tryGet(reference('pool'), 'mcpServerSettings'), 'mcp")


def test_a_wrong_parameter_is_refused() -> None:
    declared = {each.name: each for each in list_parameters(load_template())}
    assert declared["kind"].allowed == ("python", "custom")
    assert declared["principalType"].allowed == ("User", "Group", "ServicePrincipal")
    assert declared["maxSessions"].bounds == {"minValue": 2, "maxValue": 600}
    assert declared["cooldownSeconds"].bounds == {"minValue": 300, "maxValue": 3600}
    assert declared["readySessions"].bounds == {"minValue": 1}


def test_the_container_s_readme_shows_the_pool_s_template() -> None:
    readme = (ROOT / "infra" / "container" / "README.md").read_text(encoding="utf-8")
    (container,) = get_pool("custom")["customContainerTemplate"]["containers"]
    assert container["image"] == IMAGE
    for probe in container["probes"]:
        assert f"failureThreshold: {probe['failureThreshold']}" in readme
