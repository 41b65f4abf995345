"""A custom pool's own compute: what reaches Azure, what a second run keeps, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cci_plugins.errors import ConfigurationError, ProvisioningError
from cci_plugins.provisioning import down, plan, show

from ._cloud.values import SUBSCRIPTION
from ._provision import GROUP, Place, collect_progress, deploy, names, open_place, options

pytestmark = pytest.mark.anyio

SHARED = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/shared/providers"
ENVIRONMENT = f"{SHARED}/Microsoft.App/managedEnvironments/apps"
PULLER = f"{SHARED}/Microsoft.ManagedIdentity/userAssignedIdentities/puller"
SUBNET = f"{SHARED}/Microsoft.Network/virtualNetworks/vnet/subnets/sessions"
SECRET = "planted-value-of-a-secret"
COMPUTE: dict[str, Any] = {
    "kind": "custom",
    "cpu": 2,
    "memory": "4.0Gi",
    "env": {"REGION": "north"},
    "secrets": {"API_TOKEN": SECRET},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with open_place(tmp_path, monkeypatch) as found:
        yield found


def get_pool(place: Place) -> dict[str, Any]:
    (pool,) = place.cloud.of_type("Microsoft.App/sessionPools")
    return pool["properties"]


def get_container(place: Place) -> dict[str, Any]:
    return get_pool(place)["customContainerTemplate"]["containers"][0]


async def test_compute_reaches_azure_and_a_second_run_with_or_without_it_changes_nothing(
    place: Place,
) -> None:
    first = await deploy(place, options(**COMPUTE))
    container = get_container(place)
    assert container["resources"] == {"cpu": 2, "memory": "4Gi"}
    assert container["env"] == [
        {"name": "CCI_CONTAINER_CPU", "value": "2"},
        {"name": "CCI_CONTAINER_MEMORY", "value": "4Gi"},
        {"name": "CCI_SESSION_ENV_REGION", "value": "north"},
        {"name": "CCI_SESSION_ENV_API_TOKEN", "secretRef": "api-token"},
    ]
    assert get_pool(place)["secrets"] == [{"name": "api-token", "value": SECRET}]
    assert (first.cpu, first.memory, first.secrets) == (2, "4Gi", ("API_TOKEN",))
    assert SECRET not in repr(first) + repr(options(**COMPUTE))
    place.cloud.writes.clear()
    for again in (COMPUTE, {}):
        assert (await deploy(place, options(**again))).changed == ()
    assert place.cloud.writes == []
    assert get_pool(place)["secrets"] == [{"name": "api-token", "value": SECRET}]


async def test_a_change_of_size_keeps_variables_and_secrets_and_is_shown_first(
    place: Place,
) -> None:
    await deploy(place, options(**COMPUTE))
    change = options(kind="custom", memory="8Gi", cpu=4, env={"REGION": "south", "MODE": "fast"})
    planned = await plan(change, azure=place.azure).finish()
    (pool,) = [one for one in planned.resources if one.resource.kind == "session pool"]
    shown = "; ".join(pool.changes)
    assert "cpu 2 → 4" in shown
    assert "memory 4Gi → 8Gi" in shown
    assert "CCI_SESSION_ENV_MODE" in shown
    assert "south" not in shown
    assert any("4 CPU and 8Gi" in line for line in planned.billed)
    await deploy(place, change)
    assert get_container(place)["resources"] == {"cpu": 4, "memory": "8Gi"}
    assert get_pool(place)["secrets"] == [{"name": "api-token", "value": SECRET}]
    found = (await show(options(), azure=place.azure).finish()).deployment
    assert found is not None
    assert (found.cpu, found.memory) == (4, "8Gi")
    assert sorted(found.variables) == ["API_TOKEN", "MODE", "REGION"]


async def test_a_pool_that_failed_needs_its_secrets_again(place: Place) -> None:
    await deploy(place, options(**COMPUTE))
    get_pool(place)["provisioningState"] = "Failed"
    with pytest.raises(ProvisioningError, match="API_TOKEN") as caught:
        await deploy(place, options())
    assert "--secret API_TOKEN" in str(caught.value.hint)
    await deploy(place, options(secrets={"API_TOKEN": SECRET}, kind="custom"))
    assert get_pool(place)["provisioningState"] == "Succeeded"


async def test_an_unusual_size_is_a_warning_only(place: Place) -> None:
    odd = options(kind="custom", cpu=3, memory="4Gi")
    assert any("unusual" in note for note in (await plan(odd, azure=place.azure).finish()).notes)
    done = await deploy(place, odd)
    assert any("3 CPU with 4Gi is unusual" in note for note in done.notes)
    assert get_container(place)["resources"] == {"cpu": 3, "memory": "4Gi"}


async def test_an_existing_environment_is_used_kept_and_never_removed(place: Place) -> None:
    place.cloud.add_group("shared")
    place.cloud.add("Microsoft.App/managedEnvironments", "apps", "shared")
    await deploy(place, options(kind="custom", environment=ENVIRONMENT, gateway=True))
    assert get_pool(place)["environmentId"] == ENVIRONMENT
    (app,) = place.cloud.of_type("Microsoft.App/containerApps")
    assert app["properties"]["environmentId"] == ENVIRONMENT
    place.cloud.writes.clear()
    assert (await deploy(place, options())).changed == ()
    with pytest.raises(ProvisioningError, match="cannot change"):
        await deploy(place, options(kind="custom", environment=f"{ENVIRONMENT}2"))
    assert place.cloud.writes == []
    await down(options(), azure=place.azure).finish()
    assert "managedEnvironments apps" in names(place.cloud)


async def test_a_subnet_is_set_once_and_cannot_change(place: Place) -> None:
    await deploy(place, options(kind="custom", subnet=SUBNET))
    (environment,) = place.cloud.of_type("Microsoft.App/managedEnvironments")
    assert environment["properties"]["vnetConfiguration"] == {"infrastructureSubnetId": SUBNET}
    place.cloud.writes.clear()
    assert (await deploy(place, options())).changed == ()
    with pytest.raises(ProvisioningError, match="subnet"):
        await deploy(place, options(kind="custom", subnet=f"{SUBNET}2"))
    assert place.cloud.writes == []


async def test_logs_go_to_a_workspace_that_down_removes(place: Place) -> None:
    wanted = options(kind="custom", logs=True)
    planned = await plan(wanted, azure=place.azure).finish()
    assert any("log workspace" in line for line in planned.billed)
    await deploy(place, wanted)
    (environment,) = place.cloud.of_type("Microsoft.App/managedEnvironments")
    assert environment["properties"]["appLogsConfiguration"] == {"destination": "azure-monitor"}
    (setting,) = place.cloud.of_type("Microsoft.Insights/diagnosticSettings")
    (workspace,) = place.cloud.of_type("Microsoft.OperationalInsights/workspaces")
    assert setting["properties"]["workspaceId"] == workspace["id"]
    place.cloud.writes.clear()
    assert (await deploy(place, options())).changed == ()
    await down(options(), azure=place.azure).finish()
    assert place.cloud.resources == {}


async def test_a_private_registry_is_pulled_from_by_its_own_identity(place: Place) -> None:
    place.cloud.pullers.add(PULLER.lower())
    wanted = {
        "kind": "custom",
        "image": "example.azurecr.io/analysis:3",
        "registry_identity": PULLER,
        "env": {"REGION": "north"},
        "gateway": True,
    }
    await deploy(place, options(**wanted))
    (pool,) = place.cloud.of_type("Microsoft.App/sessionPools")
    assert pool["identity"]["userAssignedIdentities"] == {PULLER: {}}
    credentials = get_pool(place)["customContainerTemplate"]["registryCredentials"]
    assert credentials == {"server": "example.azurecr.io", "identity": PULLER}
    assert get_container(place)["env"] == [{"name": "REGION", "value": "north"}]
    (app,) = place.cloud.of_type("Microsoft.App/containerApps")
    assert len(app["identity"]["userAssignedIdentities"]) == 2
    assert place.cloud.of_type("Microsoft.ContainerRegistry/registries") == []
    place.cloud.writes.clear()
    assert (await deploy(place, options())).changed == ()


async def test_another_base_builds_another_image(place: Place) -> None:
    await deploy(place, options(kind="custom"))
    first = get_container(place)["image"]
    base = "mirror.example.com/python:3.13-slim-bookworm"
    await deploy(place, options(kind="custom", base=base))
    assert get_container(place)["image"] != first
    runs = place.cloud.of_type("Microsoft.ContainerRegistry/registries/taskRuns")
    arguments = [one["properties"]["runRequest"]["arguments"] for one in runs]
    assert any({"name": "BASE", "value": base, "isSecret": False} in given for given in arguments)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"cpu": 2}, "--kind custom"),
        ({"kind": "custom", "cpu": 0}, "--cpu"),
        ({"kind": "custom", "memory": "lots"}, "--memory"),
        ({"kind": "custom", "env": {"A-B": "1"}}, "letters"),
        ({"kind": "custom", "env": {"A": "1"}, "secrets": {"A": "2"}}, "remove one"),
        ({"kind": "custom", "secrets": {"A_B": "1", "a_b": "2"}}, "rename"),
        ({"kind": "custom", "environment": "apps"}, "az containerapp env show"),
        ({"kind": "custom", "subnet": "x"}, "subnet show"),
        ({"kind": "custom", "environment": ENVIRONMENT, "subnet": SUBNET}, "--subnet"),
        ({"kind": "custom", "environment": ENVIRONMENT, "logs": True}, "--logs"),
        ({"kind": "custom", "registry_identity": PULLER}, "--image"),
        ({"kind": "custom", "image": "a/b:1", "base": "c"}, "--base"),
        ({"kind": "custom", "gateway": True, "gateway_cpu": 0.3}, "--gateway-cpu"),
        ({"kind": "custom", "gateway": True, "gateway_memory": "2Gi"}, "--gateway-memory"),
    ],
    ids=str,
)
def test_what_azure_would_refuse_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        options(**wrong)
    assert named in str(caught.value.hint)


async def test_no_secret_is_in_the_progress(place: Place) -> None:
    from cci_plugins.provisioning import up

    run = up(options(**COMPUTE), azure=place.azure, try_out=False)
    assert SECRET not in repr(await collect_progress(run))
    assert GROUP in repr(run.result)


async def test_the_gateway_s_size_and_limits_are_set_and_kept(place: Place) -> None:
    wanted = {
        "kind": "custom",
        "gateway": True,
        "gateway_cpu": 1,
        "gateway_memory": "2Gi",
        "gateway_replicas": 5,
        "gateway_runs_per_minute": 20,
    }
    await deploy(place, options(**wanted))
    (app,) = place.cloud.of_type("Microsoft.App/containerApps")
    template = app["properties"]["template"]
    (container,) = template["containers"]
    assert container["resources"] == {"cpu": 1, "memory": "2Gi"}
    assert container["args"][-4:] == ["--requests-per-minute", "6000", "--runs-per-minute", "20"]
    assert template["scale"] == {"minReplicas": 1, "maxReplicas": 5}
    place.cloud.writes.clear()
    assert (await deploy(place, options())).changed == ()
