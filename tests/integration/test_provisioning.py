"""Provisioning from nothing to a pool and back, with the real SDK, against a fake cloud."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from cci_plugins.errors import ProvisioningError
from cci_plugins.pools.local.pool import LocalSessionPool
from cci_plugins.provisioning import down, plan, rotate_key, show, up

from ._cloud import Fault, role_gate
from ._cloud.cloud import EXECUTOR
from ._cloud.values import IDENTITY_PRINCIPAL, POOL_KEY, ROTATED_KEY, SUBSCRIPTION, USER
from ._emulated import emulated
from ._provision import GROUP, Place, collect_progress, deploy, names, open_place, options

pytestmark = pytest.mark.anyio

SUFFIX = options().suffix
GROUP_ID = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
PYTHON = {
    f"resourceGroups {GROUP}",
    f"sessionPools ccipool{SUFFIX}",
    f"storageAccounts ccist{SUFFIX}",
    "containers cci-checkpoints",
    "containers cci-files",
    "managementPolicies default",
}
CUSTOM = PYTHON | {
    f"managedEnvironments cci-env-{SUFFIX}",
    f"registries cciacr{SUFFIX}",
    f"userAssignedIdentities cci-id-{SUFFIX}",
}
GATEWAY = {f"containerApps cci-gateway-{SUFFIX}"}
KINDS = [
    pytest.param({"kind": "python"}, PYTHON, id="python"),
    pytest.param({"kind": "custom"}, CUSTOM, id="custom"),
    pytest.param({"kind": "custom", "gateway": True}, CUSTOM | GATEWAY, id="gateway"),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with open_place(tmp_path, monkeypatch) as found:
        yield found


def without_builds(found: set[str]) -> set[str]:
    return {name for name in found if not name.startswith("taskRuns")}


@pytest.mark.quick("python", "gateway")
@pytest.mark.parametrize(("wanted", "expected"), KINDS)
async def test_up_creates_everything_and_a_second_run_changes_nothing(
    place: Place, wanted: dict[str, object], expected: set[str]
) -> None:
    first = await deploy(place, options(**wanted))
    assert without_builds(names(place.cloud)) == expected
    assert first.pool_endpoint == place.cloud.data_plane
    assert all(
        one["tags"]["cci-plugins"] == "cci"
        for one in place.cloud.resources.values()
        if "tags" in one
    )
    place.cloud.writes.clear()
    second = await deploy(place, options(**wanted))
    assert place.cloud.writes == []
    assert second.changed == ()
    assert second.environment() == first.environment()


@pytest.mark.quick("python", "gateway")
@pytest.mark.parametrize(("wanted", "expected"), KINDS)
async def test_down_removes_only_what_up_created(
    place: Place, wanted: dict[str, object], expected: set[str]
) -> None:
    cloud = place.cloud
    cloud.add_group(GROUP)
    cloud.everything_registered()
    others = [
        cloud.add("Microsoft.App/sessionPools", "theirpool", GROUP, tags={"cci-plugins": "theirs"}),
        cloud.add("Microsoft.Storage/storageAccounts", "theirstore", GROUP),
        cloud.add("Microsoft.KeyVault/vaults", "theirvault", GROUP, tags={"cci-plugins": "cci"}),
    ]
    role = f"{others[1]}/providers/Microsoft.Authorization/roleAssignments/{USER}"
    properties = {"principalId": USER, "roleDefinitionId": "/x/y/owner", "principalType": "User"}
    cloud._keep(role, "Microsoft.Authorization/roleAssignments", {"properties": properties})
    before = set(cloud.resources)
    await deploy(place, options(**wanted))
    done = await down(options(**wanted), azure=place.azure).finish()
    assert set(cloud.resources) == before
    assert sorted(done.left) == sorted(others)
    place.cloud.writes.clear()
    assert (await down(options(**wanted), azure=place.azure).finish()).removed == ()
    assert place.cloud.writes == []


async def test_down_removes_its_own_group_once_it_is_empty(place: Place) -> None:
    await deploy(place, options())
    assert GROUP_ID.lower() in place.cloud.resources
    done = await down(options(), azure=place.azure).finish()
    assert place.cloud.resources == {}
    assert done.left == ()


async def test_a_pool_of_the_same_name_without_the_tag_is_not_changed(place: Place) -> None:
    place.cloud.add_group(GROUP)
    place.cloud.add("Microsoft.App/sessionPools", f"ccipool{SUFFIX}", GROUP)
    with pytest.raises(ProvisioningError, match="cci provision did not create it") as caught:
        await deploy(place, options())
    assert "--suffix" in str(caught.value.hint)
    assert not any("sessionPools" in path for _, path in place.cloud.writes)


async def test_show_lists_what_exists(place: Place) -> None:
    assert (await show(options(), azure=place.azure).finish()).deployment is None
    deployment = await deploy(place, options(kind="custom", gateway=True))
    found = await show(options(), azure=place.azure).finish()
    assert {one.kind for one in found.resources} == {
        "gateway",
        "session pool",
        "environment",
        "container registry",
        "identity",
        "storage account",
    }
    assert {one.state for one in found.resources} <= {"Succeeded", ""}
    assert found.deployment is not None
    assert found.deployment.environment() == deployment.environment()
    assert found.deployment.mcp_endpoint == deployment.mcp_endpoint
    assert str(deployment.mcp_endpoint).startswith("https://cci-gateway-")


async def test_a_plan_changes_nothing_and_names_all_that_up_creates(place: Place) -> None:
    wanted = options(kind="custom", gateway=True)
    planned = await plan(wanted, azure=place.azure).finish()
    assert place.cloud.writes == []
    assert {one.action for one in planned.resources} == {"create"}
    await deploy(place, wanted)
    assert {one.resource.id.lower() for one in planned.resources} == {
        key
        for key, one in place.cloud.resources.items()
        if not one["type"].endswith(("roleAssignments", "taskRuns"))
    }
    again = await plan(wanted, azure=place.azure).finish()
    assert {one.action for one in again.resources} == {"keep", "check"}
    assert [one.resource.kind for one in again.resources if one.action == "check"] == ["gateway"]
    assert any("dollars a month" in line for line in again.billed)


async def test_rotating_creates_a_new_key(place: Place) -> None:
    await deploy(place, options())
    await rotate_key(options(), azure=place.azure).finish()
    assert place.cloud.key == ROTATED_KEY
    await deploy(place, options(kind="custom", resource_group="other"))
    with pytest.raises(ProvisioningError, match="has no MCP server"):
        await rotate_key(options(resource_group="other"), azure=place.azure).finish()


@pytest.mark.quick("gateway")
@pytest.mark.parametrize(("wanted", "expected"), KINDS)
async def test_a_run_stopped_after_any_change_is_continued_by_the_next(
    place: Place, wanted: dict[str, object], expected: set[str]
) -> None:
    cloud, loop = place.cloud, asyncio.get_running_loop()
    cloud.role_uses = 0  # else the pool is asked for again until its identity may pull
    stops = 0
    for stop in range(1, 60):
        with anyio.CancelScope() as scope:

            def reached(number: int, stop: int = stop, scope: anyio.CancelScope = scope) -> None:
                if number == stop:
                    loop.call_soon_threadsafe(scope.cancel)

            cloud.on_write = reached
            await deploy(place, options(**wanted))
        if not scope.cancelled_caught:
            break
        stops += 1
    assert stops >= len(expected)
    assert without_builds(names(cloud)) == expected
    assert not any(
        str(one["properties"].get("provisioningState", "Succeeded")) != "Succeeded"
        for one in cloud.resources.values()
    )
    paths = [path for method, path in cloud.writes if method == "PUT"]
    assert sorted(paths) == sorted(set(paths))  # nothing was made twice


async def test_an_interrupted_upload_of_the_build_context_is_repeated(place: Place) -> None:
    loop, scope = asyncio.get_running_loop(), anyio.CancelScope()
    place.cloud.tasks.on_upload = lambda: loop.call_soon_threadsafe(scope.cancel)
    with scope:
        await deploy(place, options(kind="custom"))
    assert scope.cancelled_caught
    place.cloud.tasks.on_upload = None
    await deploy(place, options(kind="custom"))
    assert place.cloud.tasks.builds == 1


async def test_a_pool_that_failed_is_created_again(place: Place) -> None:
    fault = Fault("PUT", "sessionpools", code="SessionPoolQuotaExceeded", times=1, later=True)
    place.cloud.faults.append(fault)
    with pytest.raises(ProvisioningError, match="SessionPoolQuotaExceeded") as caught:
        await deploy(place, options())
    assert "quota" in str(caught.value.hint)
    await deploy(place, options())


async def test_a_changed_option_changes_only_the_pool(place: Place) -> None:
    await deploy(place, options())
    place.cloud.writes.clear()
    await deploy(place, options(max_sessions=20, egress=True))
    assert [path.rpartition("/")[2] for _, path in place.cloud.writes] == [f"ccipool{SUFFIX}"]
    await deploy(place, options(tags={"team": "data"}))
    pool = place.cloud.of_type("Microsoft.App/sessionPools")[0]
    assert pool["tags"] == {"team": "data", "cci-plugins": "cci"}


async def test_other_packages_build_another_image_for_the_pool(
    place: Place, tmp_path: Path
) -> None:
    await deploy(place, options(kind="custom"))
    first = place.cloud.of_type("Microsoft.App/sessionPools")[0]
    packages = tmp_path / "requirements.txt"
    packages.write_text("polars==1.32.3\n")
    await deploy(place, options(kind="custom", requirements=packages))
    second = place.cloud.of_type("Microsoft.App/sessionPools")[0]
    images = [
        one["properties"]["customContainerTemplate"]["containers"][0]["image"]
        for one in (first, second)
    ]
    assert images[0] != images[1]
    assert place.cloud.tasks.requirements == "polars==1.32.3\nipykernel\n"
    assert place.cloud.tasks.builds == 2


async def test_a_failed_build_shows_its_log_and_can_be_repeated(
    place: Place,
) -> None:
    place.cloud.tasks.fails = True
    with pytest.raises(ProvisioningError, match="No matching distribution found") as caught:
        await deploy(place, options(kind="custom"))
    assert "requirements.txt" in str(caught.value.hint)
    assert place.cloud.of_type("Microsoft.App/sessionPools") == []
    place.cloud.tasks.fails = False
    await deploy(place, options(kind="custom"))
    assert place.cloud.tasks.builds == 2


async def test_a_named_image_is_not_built(place: Place) -> None:
    wanted = options(kind="custom", image="mcr.microsoft.com/some/image:1")
    await deploy(place, wanted)
    assert without_builds(names(place.cloud)) == PYTHON | {f"managedEnvironments cci-env-{SUFFIX}"}


async def test_an_inherited_role_is_not_assigned_again(place: Place) -> None:
    place.cloud.add_group(GROUP)
    role = f"{GROUP_ID}/providers/Microsoft.Authorization/roleAssignments/{USER}"
    properties = {"principalId": USER, "roleDefinitionId": f"/x/{EXECUTOR}"}
    place.cloud._keep(role, "Microsoft.Authorization/roleAssignments", {"properties": properties})
    await deploy(place, options())
    pools = [path for _, path in place.cloud.writes if "sessionPools" in path]
    assert not any("roleAssignments" in path for path in pools)


async def test_the_gateway_keeps_its_key_until_it_is_rotated(place: Place) -> None:
    wanted = {"kind": "custom", "gateway": True}
    await deploy(place, options(**wanted))
    (before,) = place.cloud._secrets.values()
    await deploy(place, options(**wanted, tags={"team": "data"}))
    (after,) = place.cloud._secrets.values()
    assert before == after
    assert [one["name"] for one in before] == ["serve-key", "session-secret"]
    assert all(len(one["value"]) >= 32 for one in before)
    await rotate_key(options(**wanted), azure=place.azure).finish()
    (rotated,) = place.cloud._secrets.values()
    assert rotated[0]["value"] != before[0]["value"]
    assert rotated[1] == before[1]  # sessions stay what they are
    assert place.cloud.restarted == [f"cci-gateway-{SUFFIX}--first"]
    executors = [
        one
        for one in place.cloud.of_type("Microsoft.Authorization/roleAssignments")
        if one["properties"]["principalId"] == IDENTITY_PRINCIPAL
        and one["properties"]["roleDefinitionId"].endswith(EXECUTOR)
    ]
    assert len(executors) == 1


@pytest.mark.full  # as the tests of the command and of roles do
@pytest.mark.parametrize("kind", ["python", "custom"])
async def test_up_runs_code_in_the_new_pool(place: Place, kind: Any, tmp_path: Path) -> None:
    emulation = "platform" if kind == "python" else "custom"
    path = tmp_path / ".env"
    gate = partial(role_gate, place.cloud)
    async with emulated(LocalSessionPool(), gate, kind=emulation) as pool:
        place.cloud.data_plane = pool.url
        run = up(options(kind=kind), azure=place.azure, env_file=path)
        progress = await collect_progress(run)
    assert progress[-1].message == "the pool ran 1+1"
    values = dict(line.split("=", 1) for line in path.read_text().splitlines())
    assert values == run.result.environment()
    assert values["CCI_POOL"] == emulation
    assert values["AZURE_SESSION_POOL_ENDPOINT"] == pool.url
    assert ("AZURE_SESSION_POOL_MCP_ENDPOINT" in values) == (kind == "python")  # no gateway
    assert values["AZURE_STORAGE_ACCOUNT"] == f"ccist{SUFFIX}"
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_pool_that_does_not_run_code_is_an_error(place: Place) -> None:
    place.cloud.data_plane, place.cloud.role_uses = "http://127.0.0.1:9", 0
    azure = replace(place.azure, settling=timedelta(milliseconds=1))
    with pytest.raises(ProvisioningError, match="trial run"):
        await up(options(kind="custom"), azure=azure).finish()


async def test_the_key_is_written_only_on_request(place: Place, tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# mine\nOTHER=1\nAZURE_STORAGE_CONTAINER=mine\n")
    await deploy(place, options(), env_file=path)
    assert POOL_KEY not in path.read_text()
    assert path.read_text().startswith("# mine\nOTHER=1\nAZURE_STORAGE_CONTAINER=mine\n")
    await deploy(place, options(), env_file=path, write_key=True, replace_env=True)
    assert f"\nAZURE_SESSION_POOL_MCP_KEY={POOL_KEY}\n" in path.read_text()
    assert "\nAZURE_STORAGE_CONTAINER=cci-files\n" in path.read_text()


async def test_requests_share_connections_when_other_certificates_are_trusted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(place.running.ca))
    for azure in (place.azure, replace(place.azure, ca=None)):
        place.cloud.requests.clear()
        place.cloud.connections.clear()
        await up(options(), azure=azure, try_out=False).finish()
        assert place.cloud.requests.total() > 8
        assert len(place.cloud.connections) <= 4  # some requests run at the same time


async def test_throttled_requests_are_repeated(place: Place) -> None:
    for method, part in (("GET", "/providers/"), ("PUT", "sessionpools"), ("POST", "/register")):
        headers = {"Retry-After": "0"}
        fault = Fault(method, part, 429, "TooManyRequests", times=2, headers=headers)
        place.cloud.faults.append(fault)
    await deploy(place, options())
    assert [fault.times for fault in place.cloud.faults] == [0, 0, 0]
