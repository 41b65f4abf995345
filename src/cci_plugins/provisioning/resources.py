"""Id, API version and body of each resource, from the options alone.

Those of Microsoft Foundry are in `foundry_resources`. `infra/` must create the same resources,
and a test compares both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.resource import Resource
from cci_plugins.common.settings import SESSION_ENV_PREFIX, get_variable_name

from .compute import (
    REPOSITORY,
    build_secret_name,
    get_registry_server,
    is_own_image,
)
from .options import Options
from .tags import build_foundry_tag, build_tags

BLOB_CONTAINER = "cci-files"
CHECKPOINT_CONTAINER = "cci-checkpoints"
CHECKPOINT_RULE = "delete-checkpoints"
LOGS = "cci-logs"
PORT = 6000
PROFILE = "Consumption"
SERVE_KEY, SESSION_SECRET = "serve-key", "session-secret"
DOCKERFILE = "infra/container/Dockerfile"
RATE_FLAGS = ("--requests-per-minute", "--runs-per-minute")
BUILD_SECONDS = 3600
_GATEWAY = "Microsoft.App/containerApps"
_HEALTH = {"httpGet": {"path": "/health", "port": PORT}}
_COMMAND = ["/opt/cci/bin/cci", "serve", "--pool", "custom", "--host", "0.0.0.0", "--port", "6000"]  # noqa: S104 - in a container, behind its ingress


def build_resource_group(options: Options) -> Resource:
    """Build the resource group."""
    return Resource(
        type="Microsoft.Resources/resourceGroups",
        id=options.group_id,
        api_version=api_versions.RESOURCES,
        body={"location": options.location, "tags": build_tags(options)},
    )


def build_environment(options: Options) -> Resource:
    """Build the environment of a custom pool's containers and of the gateway."""
    profile = {"name": PROFILE, "workloadProfileType": PROFILE}
    properties: dict[str, Any] = {"workloadProfiles": [profile]}
    if options.subnet is not None:
        properties["vnetConfiguration"] = {"infrastructureSubnetId": options.subnet}
    if options.logs:
        properties["appLogsConfiguration"] = {"destination": "azure-monitor"}
    return _build_tracked(
        options,
        "Microsoft.App/managedEnvironments",
        f"{options.name}-env-{options.suffix}",
        {"properties": properties},
    )


def get_environment_id(options: Options) -> str:
    """Return the resource id of the environment: the named one, or the one that is created."""
    return options.environment or build_environment(options).id


def build_workspace(options: Options) -> Resource:
    """Build the workspace that receives the environment's logs."""
    return _build_tracked(
        options,
        "Microsoft.OperationalInsights/workspaces",
        f"{options.name}-logs-{options.suffix}",
        {"properties": {"sku": {"name": "PerGB2018"}, "retentionInDays": 30}},
    )


def build_diagnostic_setting(options: Options) -> Resource:
    """Build the setting that sends the environment's logs to the workspace."""
    logs = [{"categoryGroup": "allLogs", "enabled": True}]
    kind = "Microsoft.Insights/diagnosticSettings"
    return Resource(
        type=kind,
        id=f"{build_environment(options).id}/providers/{kind}/{LOGS}",
        api_version=api_versions.OF_TYPE[kind],
        body={"properties": {"workspaceId": build_workspace(options).id, "logs": logs}},
    )


def build_registry(options: Options) -> Resource:
    """Build the container registry that builds and stores the image."""
    return _build_tracked(
        options,
        "Microsoft.ContainerRegistry/registries",
        f"{options.name}acr{options.suffix}",
        {
            "sku": {"name": "Basic"},
            "properties": {"adminUserEnabled": False, "anonymousPullEnabled": False},
        },
    )


def build_identity(options: Options) -> Resource:
    """Build the identity that pulls the image and that the gateway signs in with."""
    return _build_tracked(
        options,
        "Microsoft.ManagedIdentity/userAssignedIdentities",
        f"{options.name}-id-{options.suffix}",
        {},
    )


def build_image_name(options: Options, tag: str) -> str:
    """Return the name of the built image, with its registry and tag."""
    return f"{build_login_server(options)}/{REPOSITORY}:{tag}"


def build_task_run(
    options: Options, tag: str, *, source: str, arguments: Mapping[str, str]
) -> Resource:
    """Build the task run that builds the image in the cloud.

    Args:
        options: What to provision.
        tag: The image's tag.
        source: Path of the build context in the registry.
        arguments: The Dockerfile's build arguments.
    """
    request = {
        "type": "DockerBuildRequest",
        "dockerFilePath": DOCKERFILE,
        "imageNames": [f"{REPOSITORY}:{tag}"],
        "isPushEnabled": True,
        "noCache": False,
        "platform": {"os": "Linux", "architecture": "amd64"},
        "sourceLocation": source,
        "arguments": [
            {"name": name, "value": value, "isSecret": False}
            for name, value in sorted(arguments.items())
        ],
        "timeout": BUILD_SECONDS,
    }
    return Resource(
        type="Microsoft.ContainerRegistry/registries/taskRuns",
        id=f"{build_registry(options).id}/taskRuns/{REPOSITORY}-{tag}",
        api_version=api_versions.REGISTRY_TASKS,
        body={"properties": {"runRequest": request, "forceUpdateTag": source}},
    )


def build_login_server(options: Options) -> str:
    """Return the registry's host name."""
    return f"{build_registry(options).name}.azurecr.io"


def build_pool(options: Options, image: str = "") -> Resource:
    """Build the session pool.

    Args:
        options: What to provision.
        image: Image of a custom pool's sessions.
    """
    lifecycle = {
        "lifecycleType": "Timed",
        "cooldownPeriodInSeconds": int(options.cooldown.total_seconds()),
    }
    properties: dict[str, Any] = {
        "poolManagementType": "Dynamic",
        "containerType": "PythonLTS",
        "scaleConfiguration": {"maxConcurrentSessions": options.max_sessions},
        "dynamicPoolConfiguration": {"lifecycleConfiguration": lifecycle},
        "sessionNetworkConfiguration": {
            "status": "EgressEnabled" if options.egress else "EgressDisabled"
        },
    }
    body: dict[str, Any] = {"properties": properties}
    if options.kind == "python":
        properties["mcpServerSettings"] = {"isMcpServerEnabled": True}
    else:
        properties |= _build_custom_properties(options, image)
        puller = get_pull_identity(options)
        body |= _build_identity_block(puller) if puller else {}
    name = f"{options.name}pool{options.suffix}"
    body["tags"] = build_tags(options) | build_foundry_tag(options)
    pool = _build_tracked(options, "Microsoft.App/sessionPools", name, body)
    is_managed = options.kind == "python"
    return replace(pool, api_version=api_versions.MANAGED_POOL) if is_managed else pool


def build_storage_account(options: Options) -> Resource:
    """Build the storage account for transfers by link, without keys or public access."""
    return _build_tracked(
        options,
        "Microsoft.Storage/storageAccounts",
        f"{options.name}st{options.suffix}",
        {
            "kind": "StorageV2",
            "sku": {"name": "Standard_LRS"},
            "properties": {
                "accessTier": "Hot",
                "allowBlobPublicAccess": False,
                "allowCrossTenantReplication": False,
                "allowSharedKeyAccess": False,
                "defaultToOAuthAuthentication": True,
                "minimumTlsVersion": "TLS1_2",
                "supportsHttpsTrafficOnly": True,
            },
        },
    )


def build_blob_container(options: Options) -> Resource:
    """Build the container for files on their way."""
    return _build_container(options, BLOB_CONTAINER)


def build_checkpoint_container(options: Options) -> Resource:
    """Build the container for saved sessions."""
    return _build_container(options, CHECKPOINT_CONTAINER)


def _build_container(options: Options, name: str) -> Resource:
    return Resource(
        type="Microsoft.Storage/storageAccounts/blobServices/containers",
        id=f"{build_storage_account(options).id}/blobServices/default/containers/{name}",
        api_version=api_versions.STORAGE,
        body={"properties": {"publicAccess": "None"}},
    )


def build_lifecycle_rule(options: Options) -> Resource:
    """Build the policy that deletes staged files after a day, and checkpoints later.

    An account has one policy, so both rules are in it. Each applies to one container.
    """
    rules = [
        _build_rule("delete-after-a-day", BLOB_CONTAINER, 1),
        _build_rule(CHECKPOINT_RULE, CHECKPOINT_CONTAINER, options.checkpoint_days),
    ]
    return Resource(
        type="Microsoft.Storage/storageAccounts/managementPolicies",
        id=f"{build_storage_account(options).id}/managementPolicies/default",
        api_version=api_versions.STORAGE,
        body={"properties": {"policy": {"rules": rules}}},
    )


def _build_rule(name: str, container: str, days: int) -> dict[str, Any]:
    return {
        "enabled": True,
        "name": name,
        "type": "Lifecycle",
        "definition": {
            "filters": {"blobTypes": ["blockBlob"], "prefixMatch": [f"{container}/"]},
            "actions": {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": days}}},
        },
    }


def build_gateway(
    options: Options,
    image: str,
    *,
    pool_endpoint: str,
    client_id: str,
    secrets: Mapping[str, str],
) -> Resource:
    """Build the gateway: an MCP endpoint in front of a custom pool.

    Args:
        options: What to provision.
        image: Image of the sessions. The gateway runs its server.
        pool_endpoint: The pool's management endpoint.
        client_id: Client id of the identity that it signs in with.
        secrets: The key that its clients send, and the secret that signs environment ids.
    """
    container = {
        "name": "gateway",
        "image": image,
        "command": _COMMAND[:1],
        "args": [*_COMMAND[1:], *_build_rate_arguments(options)],
        "env": [
            {"name": get_variable_name("endpoint"), "value": pool_endpoint},
            {"name": "AZURE_CLIENT_ID", "value": client_id},
            {"name": get_variable_name("serve_key"), "secretRef": SERVE_KEY},
            {"name": get_variable_name("session_secret"), "secretRef": SESSION_SECRET},
        ],
        "resources": {"cpu": options.gateway_cpu, "memory": options.gateway_memory},
        "probes": [
            {"type": "Liveness", **_HEALTH},
            {"type": "Readiness", **_HEALTH},
            {"type": "Startup", **_HEALTH, "failureThreshold": 10, "periodSeconds": 3},
        ],
    }
    configuration: dict[str, Any] = {
        "activeRevisionsMode": "Single",
        "ingress": {
            "external": True,
            "targetPort": PORT,
            "transport": "http",
            "allowInsecure": False,
        },
        "secrets": _build_secrets(secrets),
    }
    puller = get_pull_identity(options)
    if puller:
        configuration["registries"] = [_build_registry_credentials(options, puller)]
    scale = {"minReplicas": 1, "maxReplicas": options.gateway_replicas}
    properties = {
        "environmentId": get_environment_id(options),
        "configuration": configuration,
        "template": {"containers": [container], "scale": scale},
    }
    if options.environment is None:  # another environment may have other profiles, or none
        properties["workloadProfileName"] = PROFILE
    own = build_identity(options).id
    identities = _build_identity_block(*dict.fromkeys((own, puller or own)))
    body = {**identities, "properties": properties}
    return _build_tracked(options, _GATEWAY, build_gateway_name(options), body)


def _build_rate_arguments(options: Options) -> list[str]:
    rates = (options.gateway_requests_per_minute, options.gateway_runs_per_minute)
    return [
        part for flag, rate in zip(RATE_FLAGS, rates, strict=True) for part in (flag, str(rate))
    ]


def build_gateway_name(options: Options) -> str:
    """Return the gateway's name."""
    return f"{options.name}-gateway-{options.suffix}"


def build_gateway_secrets(options: Options, secrets: Mapping[str, str]) -> Resource:
    """Build the change of the gateway's secrets and of nothing else.

    Args:
        options: What was provisioned.
        secrets: All secrets. Azure deletes those that are left out.
    """
    return Resource(
        type=_GATEWAY,
        id=f"{options.group_id}/providers/{_GATEWAY}/{build_gateway_name(options)}",
        api_version=api_versions.APP,
        body={"properties": {"configuration": {"secrets": _build_secrets(secrets)}}},
    )


def _build_secrets(secrets: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in secrets.items()]


def _build_custom_properties(options: Options, image: str) -> dict[str, Any]:
    container = {
        "name": "session",
        "image": image,
        "resources": {"cpu": options.cpu, "memory": options.memory},
        "probes": [
            {"type": "Liveness", **_HEALTH, "failureThreshold": 4},
            {"type": "Startup", **_HEALTH, "failureThreshold": 30, "periodSeconds": 2},
        ],
    }
    variables = _build_variables(options, image)
    if variables:
        container["env"] = variables
    template: dict[str, Any] = {"containers": [container], "ingress": {"targetPort": PORT}}
    pulling: dict[str, Any] = {}
    puller = get_pull_identity(options)
    if puller:
        template["registryCredentials"] = _build_registry_credentials(options, puller)
        # lifecycle None: the identity pulls the image, and sessions cannot get its token
        pulling = {"managedIdentitySettings": [{"identity": puller, "lifecycle": "None"}]}
    return {
        **pulling,
        **_build_pool_secrets(options),
        "containerType": "CustomContainer",
        "environmentId": get_environment_id(options),
        "customContainerTemplate": template,
        "scaleConfiguration": {
            "maxConcurrentSessions": options.max_sessions,
            "readySessionInstances": options.ready_sessions,
        },
    }


def get_pull_identity(options: Options) -> str | None:
    """Return the resource id of the identity that pulls the image, or None for a public image."""
    if options.registry_identity is not None:
        return options.registry_identity
    return build_identity(options).id if options.uses_own_registry else None


def _build_variables(options: Options, image: str) -> list[dict[str, str]]:
    """Return the variables of a session's container.

    The server of this package hands variables with its prefix to the code, and never uses them
    itself. Another image gets the plain names.
    """
    is_own = is_own_image(image)
    prefix = SESSION_ENV_PREFIX if is_own else ""
    variables = []
    if is_own:
        variables = [
            {"name": get_variable_name("container_cpu"), "value": f"{options.cpu:g}"},
            {"name": get_variable_name("container_memory"), "value": options.memory},
        ]
    for name, value in sorted(options.env.items()):
        variables.append({"name": f"{prefix}{name}", "value": value})
    for name in sorted(options.secrets):
        variables.append({"name": f"{prefix}{name}", "secretRef": build_secret_name(name)})
    return variables


def _build_pool_secrets(options: Options) -> dict[str, Any]:
    """Return the secrets whose values are known. Without any, the pool keeps those that it has."""
    secrets = {build_secret_name(name): value for name, value in options.secrets.items() if value}
    return {"secrets": _build_secrets(secrets)} if secrets else {}


def _build_registry_credentials(options: Options, puller: str) -> dict[str, str]:
    own = options.uses_own_registry or options.image is None
    server = build_login_server(options) if own else get_registry_server(options.image or "")
    return {"server": server, "identity": puller}


def _build_identity_block(*identities: str) -> dict[str, Any]:
    assigned: dict[str, Any] = {identity: {} for identity in identities}
    return {"identity": {"type": "UserAssigned", "userAssignedIdentities": assigned}}


def _build_tracked(options: Options, kind: str, name: str, body: dict[str, Any]) -> Resource:
    return Resource(
        type=kind,
        id=f"{options.group_id}/providers/{kind}/{name}",
        api_version=api_versions.OF_TYPE[kind],
        body={"location": options.location, "tags": build_tags(options), **body},
    )
