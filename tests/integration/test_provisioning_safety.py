"""`up` and `down` destroy nothing of others, and demand no right that is not needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from cci_plugins.errors import ConfigurationError, ProvisioningError
from cci_plugins.pools.local.pool import LocalSessionPool
from cci_plugins.provisioning import Options, down, plan, show, up

from ._cloud import Fault, role_gate
from ._cloud.cloud import EXECUTOR
from ._cloud.values import USER
from ._emulated import emulated
from ._provision import GROUP, Place, collect_progress, deploy, open_place, options

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with open_place(tmp_path, monkeypatch) as found:
        yield found


def refuse(method: str, part: str, action: str) -> Fault:
    message = f"The client does not have authorization to perform action '{action}'."
    return Fault(method, part, 403, "AuthorizationFailed", message)


async def test_down_and_show_touch_only_the_named_deployment(place: Place) -> None:
    cloud = place.cloud
    await deploy(place, options(suffix="bbb"))
    kept = set(cloud.resources)
    await deploy(place, options(suffix="aaa"))
    copied = cloud.add(
        "Microsoft.Storage/storageAccounts", "copied", GROUP, tags={"cci-plugins": "cci"}
    )
    shown = await show(options(suffix="aaa"), azure=place.azure).finish()
    assert {one.name for one in shown.resources} == {"ccipoolaaa", "ccistaaa"}
    done = await down(options(suffix="aaa"), azure=place.azure).finish()
    assert set(cloud.resources) == kept | {copied.lower()}
    assert {one.rpartition("/")[2] for one in done.left} == {"ccipoolbbb", "ccistbbb", "copied"}


async def test_down_needs_no_right_to_remove_role_assignments(place: Place) -> None:
    await deploy(place, options())
    place.cloud.faults.append(
        refuse("DELETE", "roleassignments", "Microsoft.Authorization/roleAssignments/delete")
    )
    progress = await collect_progress(down(options(), azure=place.azure))
    assert any("left to Azure" in one.message for one in progress if one.state == "note")
    assert place.cloud.resources == {}


async def test_down_removes_the_dead_pool_from_the_env_file(place: Place, tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"# mine\r\nOTHER=1\r\n")
    await deploy(place, options(), env_file=path, write_key=True)
    assert b"AZURE_SESSION_POOL_MCP_KEY" in path.read_bytes()
    done = await down(options(), azure=place.azure, env_file=path).finish()
    assert path.read_bytes() == b"# mine\r\nOTHER=1\r\n"
    assert {"CCI_POOL", "AZURE_SESSION_POOL_MCP_KEY", "AZURE_STORAGE_CONTAINER"} <= set(done.unset)
    other = "AZURE_SESSION_POOL_RESOURCE_ID=/subscriptions/x\nCCI_POOL=platform\n"
    path.write_text(other)
    assert (await down(options(), azure=place.azure, env_file=path).finish()).unset == ()
    assert path.read_text() == other


async def test_contributor_on_the_group_is_enough_when_all_is_registered(place: Place) -> None:
    cloud = place.cloud
    cloud.everything_registered()
    cloud.add_group(GROUP)
    cloud.faults += [
        refuse("GET", "microsoft.features", "Microsoft.Features/providers/features/read"),
        refuse("GET", "providers/microsoft.app", "Microsoft.App/read"),
        refuse("PUT", "roleassignments", "Microsoft.Authorization/roleAssignments/write"),
    ]
    cloud.faults[1].part = "0001/providers/microsoft."
    deployment = await deploy(place, options())
    notes = "\n".join(deployment.notes)
    assert "az feature register --namespace Microsoft.App" in notes
    assert f"az role assignment create --assignee-object-id {USER}" in notes
    assert f"--role {EXECUTOR} --scope " in notes


async def test_only_the_missing_right_to_pull_the_image_ends_up(place: Place) -> None:
    place.cloud.faults.append(
        refuse("PUT", "roleassignments", "Microsoft.Authorization/roleAssignments/write")
    )
    with pytest.raises(ProvisioningError, match="roleAssignments/write") as caught:
        await deploy(place, options(kind="custom"))
    assert "az role assignment create" in str(caught.value.hint)
    assert "registries/cciacr" in str(caught.value.hint)


async def test_the_trial_run_decides_about_a_role_that_could_not_be_assigned(
    place: Place, tmp_path: Path
) -> None:
    place.cloud.faults.append(
        refuse("PUT", "roleassignments", "Microsoft.Authorization/roleAssignments/write")
    )
    pool_options = LocalSessionPool(ready_sessions=0, preload=())
    azure = replace(place.azure, settling=timedelta(minutes=10))
    wanted = options(kind="custom", image="mcr.microsoft.com/some/image:1")
    async with emulated(pool_options, partial(role_gate, place.cloud), kind="custom") as pool:
        place.cloud.data_plane = pool.url
        with pytest.raises(ProvisioningError, match="trial run") as caught:
            await up(wanted, azure=azure).finish()
        assert EXECUTOR in str(caught.value.hint)
        place.cloud.assign(EXECUTOR, f"/subscriptions/{wanted.subscription}")
        path = tmp_path / ".env"
        run = up(wanted, azure=azure, env_file=path)
        assert (await collect_progress(run))[-1].message == "the pool ran 1+1"
    values = dict(line.split("=", 1) for line in path.read_text().splitlines())
    assert values == run.result.environment()
    assert (values["CCI_POOL"], values["AZURE_SESSION_POOL_ENDPOINT"]) == ("custom", pool.url)
    assert "AZURE_SESSION_POOL_MCP_ENDPOINT" not in values  # no gateway


async def test_a_wrong_key_is_not_reported_as_a_role_that_is_not_known_yet(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    azure = replace(place.azure, settling=timedelta(minutes=10))
    async with emulated(LocalSessionPool(ready_sessions=0, preload=()), kind="platform") as pool:
        place.cloud.data_plane, place.cloud.key = pool.url, "planted-wrong-key"
        with pytest.raises(ProvisioningError, match="trial run") as caught:
            await up(options(), azure=azure).finish()
    assert "rotate-key" in str(caught.value.hint)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.quick("python")
@pytest.mark.parametrize("kind", ["python", "custom"])
async def test_the_remedy_for_a_region_works(place: Place, kind: Any) -> None:
    cloud = place.cloud
    cloud.faults.append(Fault("PUT", "sessionpools/", 400, "SessionTypeNotSupportedInRegion"))
    with pytest.raises(ProvisioningError) as caught:
        await deploy(place, options(kind=kind))
    assert "--suffix" in str(caught.value.hint)
    cloud.faults.clear()
    await deploy(place, options(kind=kind, location="swedencentral", suffix="other"))


async def test_the_remedy_for_a_dropped_mcp_server_works(place: Place) -> None:
    place.cloud.drops_mcp = True
    with pytest.raises(ProvisioningError, match="dropped mcpServerSettings") as caught:
        await deploy(place, options())
    assert "--suffix" in str(caught.value.hint)
    place.cloud.drops_mcp = False
    await deploy(place, options(location="swedencentral", suffix="other"))


def get_pool(place: Place) -> dict[str, Any]:
    (pool,) = place.cloud.of_type("Microsoft.App/sessionPools")
    return pool


async def test_options_that_are_left_out_keep_what_a_custom_pool_has(
    place: Place, tmp_path: Path
) -> None:
    packages = tmp_path / "requirements.txt"
    packages.write_text("polars==1.32.3\n")
    first = options(
        kind="custom",
        gateway=True,
        requirements=packages,
        max_sessions=50,
        ready_sessions=3,
        cooldown=timedelta(minutes=20),
        egress=True,
        tags={"team": "data"},
        location="swedencentral",
    )
    await deploy(place, first)
    place.cloud.writes.clear()
    await deploy(place, options())
    assert place.cloud.writes == []
    planned = await plan(options(max_sessions=60), azure=place.azure).finish()
    (change,) = [one for one in planned.resources if one.action == "update"]
    assert change.changes == ("maxConcurrentSessions 50 → 60",)
    assert planned.location == "swedencentral"
    before = get_pool(place)["properties"]["customContainerTemplate"]
    await deploy(place, options(max_sessions=60))
    assert [(method, path.rpartition("/")[2]) for method, path in place.cloud.writes] == [
        ("PATCH", f"ccipool{first.suffix}")
    ]
    assert get_pool(place)["tags"] == {"team": "data", "cci-plugins": "cci"}
    assert get_pool(place)["properties"]["customContainerTemplate"] == before
    assert get_pool(place)["properties"]["scaleConfiguration"] == {
        "maxConcurrentSessions": 60,
        "readySessionInstances": 3,
    }


@pytest.mark.quick("to-python", "location")
@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({"kind": "custom"}, {"kind": "python"}, "kind custom"),
        ({"kind": "python"}, {"kind": "custom"}, "kind python"),
        ({}, {"location": "swedencentral"}, "location eastus"),
    ],
    ids=["to-python", "to-custom", "location"],
)
async def test_what_cannot_change_in_place_is_refused_before_anything_is_written(
    place: Place, first: dict[str, Any], second: dict[str, Any], named: str
) -> None:
    await deploy(place, options(**first))
    place.cloud.writes.clear()
    for run in (
        plan(options(**second), azure=place.azure),
        up(options(**second), azure=place.azure),
    ):
        with pytest.raises(ProvisioningError, match=named) as caught:
            await run.finish()
        assert "--suffix" in str(caught.value.hint)
        assert "cci provision down" in str(caught.value.hint)
    assert place.cloud.writes == []
    await deploy(place, options(**second, suffix="other"))  # one way out
    await down(options(), azure=place.azure).finish()  # and the other
    await deploy(place, options(**second))


async def test_an_interrupted_deployment_continues_in_its_region(place: Place) -> None:
    place.cloud.faults.append(Fault("PUT", "sessionpools/", 400, "Stop"))
    with pytest.raises(ProvisioningError):
        await deploy(place, options(kind="custom", location="swedencentral"))
    place.cloud.faults.clear()
    place.cloud.writes.clear()
    with pytest.raises(ProvisioningError, match="location swedencentral"):
        await deploy(place, options(kind="custom", location="eastus"))
    assert place.cloud.writes == []
    await deploy(place, options(kind="custom"))
    assert get_pool(place)["location"] == "swedencentral"


async def test_endpoints_that_azure_names_late_are_waited_for(place: Place) -> None:
    place.cloud.late_endpoints = 4
    deployment = await deploy(place, options())
    assert deployment.mcp_endpoint == f"{place.cloud.data_plane}/mcp"


async def test_properties_that_azure_does_not_return_cause_no_write(place: Place) -> None:
    place.cloud.hides = {"probes", "managedIdentitySettings", "lifecycleType"}
    await deploy(place, options(kind="custom"))
    place.cloud.writes.clear()
    await deploy(place, options(kind="custom"))
    assert place.cloud.writes == []


async def test_a_plan_without_a_sign_in_has_what_the_options_say(place: Place) -> None:
    place.running.entra.refuses = True
    planned = await plan(options(kind="custom"), azure=place.azure).finish()
    assert {one.action for one in planned.resources} == {"check"}
    assert any("not signed in" in note for note in planned.notes)
    assert any("dollars a month" in line for line in planned.billed)


def test_options_know_which_of_them_were_given() -> None:
    wanted = options(max_sessions=20, egress=False)
    assert wanted.given == {"max_sessions", "egress"}
    assert (wanted.kind, wanted.location, wanted.ready_sessions) == ("python", "eastus", 1)
    assert wanted.with_values(location="westus2").given == wanted.given
    assert wanted == Options(
        **{
            name: getattr(wanted, name)
            for name in ("subscription", "resource_group", "max_sessions")
        }
    )


async def test_a_subscription_that_may_not_build_images_gets_a_second_way(place: Place) -> None:
    refusal = Fault("PUT", "taskruns", 403, "TasksOperationsNotAllowed", "ACR Tasks are refused.")
    place.cloud.faults.append(refusal)
    with pytest.raises(ProvisioningError, match="may not build images") as caught:
        await deploy(place, options(kind="custom"))
    hint = str(caught.value.hint)
    assert "docker build" in hint
    assert "--image cciacr" in hint
    archive = anyio.Path(hint.partition("- < ")[2].partition(" ")[0])
    assert (await archive.stat()).st_size > 0
    await archive.unlink()


async def test_a_rate_limit_of_docker_hub_is_named(place: Place) -> None:
    place.cloud.tasks.fails = True
    place.cloud.tasks.log_text = (
        "toomanyrequests: You have reached your unauthenticated pull rate limit"
    )
    with pytest.raises(ProvisioningError, match="the build ended") as caught:
        await deploy(place, options(kind="custom"))
    assert "--base" in str(caught.value.hint)
    assert caught.value.__cause__ is not caught.value


def test_the_gateway_is_refused_in_an_image_that_does_not_have_it() -> None:
    image = "mcr.microsoft.com/k8se/services/codeinterpreter:0.9.18-python3.12"
    with pytest.raises(ConfigurationError, match="gateway cannot run") as caught:
        options(kind="custom", gateway=True, image=image)
    assert "--requirements" in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["python", "custom"])
async def test_a_version_of_the_api_that_azure_does_not_have_is_replaced(
    place: Place, kind: Any
) -> None:
    place.cloud.app_versions = (
        ["2025-10-02-preview"] if kind == "custom" else ["2026-03-02-preview"]
    )
    wanted = options(kind=kind, image="some.example/image:1" if kind == "custom" else None)
    if kind == "python":
        deployment = await deploy(place, wanted)
        assert deployment.mcp_endpoint is not None
    else:
        await deploy(place, replace(wanted, gateway=True))
    await down(wanted, azure=place.azure).finish()
    assert place.cloud.of_type("Microsoft.App/sessionPools") == []


async def test_up_and_show_tell_why_a_custom_pool_does_not_get_ready(place: Place) -> None:
    status = {"expectedCount": 1, "readyCount": 0, "imagePullFailCount": 3, "crashCount": 0}
    place.cloud.template_status = {"details": "manifest unknown", "status": status}
    wanted = options(kind="custom", image="some.example/image:1")
    with pytest.raises(ProvisioningError, match="could not be pulled \\(3 times\\)") as caught:
        await deploy(place, wanted)
    assert "manifest unknown" in str(caught.value)
    shown = await show(wanted, azure=place.azure).finish()
    assert shown.deployment is not None
    assert "0 of 1 sessions are ready" in shown.deployment.notes[0]


async def test_a_pool_that_never_gets_ready_is_not_waited_for(place: Place) -> None:
    status = {"expectedCount": 1, "readyCount": 0, "imagePullFailCount": 0, "crashCount": 7}
    place.cloud.template_status = {"status": status}
    place.cloud.looks = 100_000
    azure = replace(place.azure, settling=timedelta(seconds=1), patience=timedelta(minutes=5))
    place.cloud.add_group(GROUP)
    place.cloud.everything_registered()
    place.cloud.registration_looks = 1
    environment = f"cci-env-{options().suffix}"
    place.cloud.add(
        "Microsoft.App/managedEnvironments", environment, GROUP, tags={"cci-plugins": "cci"}
    )
    place.cloud.of_type("Microsoft.App/managedEnvironments")[0]["properties"][
        "workloadProfiles"
    ] = [{"name": "Consumption", "workloadProfileType": "Consumption"}]
    wanted = options(kind="custom", image="some.example/image:1")
    with pytest.raises(ProvisioningError, match="crashed \\(7 times\\)"):
        await up(wanted, azure=azure, try_out=False).finish()
