"""From nothing to a pool and back, by the real SDK, against a fake cloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cci_plugins.provisioning import down, plan, rotate_key, show, up

from ._cloud import role_gate
from ._cloud.values import IDENTITY_PRINCIPAL, ROTATED_KEY, SUBSCRIPTION, USER
from ._emulated import emulated
from ._provision import GROUP, Place, made, names, options, placed, told

pytestmark = pytest.mark.anyio

SUFFIX = options().suffix
GROUP_ID = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
PYTHON = {
    f"resourceGroups {GROUP}",
    f"sessionPools ccipool{SUFFIX}",
    f"storageAccounts ccist{SUFFIX}",
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
    with placed(tmp_path, monkeypatch) as found:
        yield found


def without_builds(found: set[str]) -> set[str]:
    return {name for name in found if not name.startswith("taskRuns")}


@pytest.mark.parametrize(("wanted", "expected"), KINDS)
async def test_up_makes_everything_from_nothing_and_again_changes_nothing(
    place: Place, wanted: dict[str, object], expected: set[str]
) -> None:
    first = await made(place, options(**wanted))
    assert without_builds(names(place.cloud)) == expected
    assert first.pool_endpoint == place.cloud.data_plane
    assert all(
        one["tags"]["cci-plugins"] == "cci"
        for one in place.cloud.resources.values()
        if "tags" in one
    )
    place.cloud.writes.clear()
    second = await made(place, options(**wanted))
    assert place.cloud.writes == []
    assert second.changed == ()
    assert second.environment() == first.environment()
