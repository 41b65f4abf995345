"""`up` and `down` destroy nothing of others, and demand no right that is not needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cci_plugins.errors import ProvisioningError
from cci_plugins.pools.local.pool import LocalSessionPool
from cci_plugins.provisioning import down, show, up

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


async def test_the_trial_run_decides_about_a_role_that_could_not_be_assigned(place: Place) -> None:
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
        assert (await collect_progress(up(wanted, azure=azure)))[-1].message == "the pool ran 1+1"


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
