"""`up --foundry`: account, project, model and connection in the same command, and back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cci_plugins.errors import ConfigurationError, ProvisioningError
from cci_plugins.provisioning import down, plan, show, up

from ._cloud import Fault
from ._cloud.foundry import offer
from ._cloud.values import POOL_KEY, SECRETS
from ._provision import GROUP, Place, collect_progress, deploy, names, open_place, options

pytestmark = pytest.mark.anyio

ACCOUNT = "Microsoft.CognitiveServices/accounts"
OURS = {"foundry": True, "suffix": "abc123"}
CUSTOM = {**OURS, "kind": "custom", "image": "cciacrabc123.azurecr.io/cci-session:1"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with open_place(tmp_path, monkeypatch) as found:
        found.cloud.everything_registered()
        yield found


def list_foundry(place: Place) -> set[str]:
    return {one for one in names(place.cloud) if one.partition(" ")[0] in KINDS}


KINDS = {"accounts", "projects", "deployments", "connections"}
MADE = {
    "accounts cci-foundry-abc123",
    "projects cci-project",
    "deployments gpt-5.6-luna",
    "connections code-interpreter",
}


async def test_one_command_creates_shows_keeps_and_removes_the_project(
    place: Place, tmp_path: Path
) -> None:
    cloud, env = place.cloud, tmp_path / ".env"
    cloud.foundry.busy = 2  # the account takes one change at a time
    connections: list[Any] = []
    cloud.foundry.on_connection = lambda name, body: connections.append((name, body))
    planned = await plan(options(**OURS), azure=place.azure).finish()
    kinds = [one.resource.kind for one in planned.resources]
    assert kinds[-4:] == ["Foundry account", "Foundry project", "model", "Foundry connection"]
    assert "Foundry User for you on cci-project" in planned.assignments
    assert any("gpt-5.6-luna: by token" in line for line in planned.billed)
    assert "provider Microsoft.CognitiveServices" in planned.registrations

    made = await deploy(place, options(**OURS), env_file=env)
    assert list_foundry(place) == MADE
    assert made.foundry is not None
    assert made.foundry.project_endpoint == f"{cloud.url}/api/projects/cci-project"
    ((_, body),) = connections
    assert body["properties"]["credentials"]["keys"] == {"x-ms-apikey": POOL_KEY}
    assert body["properties"]["target"] == made.mcp_endpoint
    text = env.read_text()
    assert f"MCP_PROJECT_CONNECTION_ID={made.foundry.connection_id}\n" in text
    assert "FOUNDRY_MODEL_DEPLOYMENT_NAME=gpt-5.6-luna\n" in text
    assert not [secret for secret in SECRETS if secret in text + repr(made)]

    writes = len(cloud.writes)
    again = await deploy(place, options(suffix="abc123"))  # a short command keeps the project
    assert again.foundry == made.foundry
    assert len(cloud.writes) == writes
    cloud.key = "planted-key-after-rotation"
    await deploy(place, options(suffix="abc123"))
    assert len(connections) == 2

    shown = await show(options(suffix="abc123"), azure=place.azure).finish()
    assert {one.kind for one in shown.resources} >= {"model", "Foundry account", "session pool"}
    assert shown.deployment is not None
    assert shown.deployment.foundry == made.foundry

    done = await down(options(suffix="abc123"), azure=place.azure, env_file=env).finish()
    assert cloud.resources == {}
    assert cloud.foundry.deleted == {}
    assert env.read_text() == ""
    assert {"FOUNDRY_PROJECT_ENDPOINT", "FOUNDRY_MODEL_DEPLOYMENT_NAME"} <= set(done.unset)


async def test_a_custom_pool_gets_a_gateway_whose_key_the_connection_has(place: Place) -> None:
    cloud = place.cloud
    bodies: list[Any] = []
    cloud.foundry.on_connection = lambda _, body: bodies.append(body["properties"])
    wanted = options(**CUSTOM)
    assert wanted.gateway
    cloud.role_uses = 0
    cloud.tasks.images.add("cci-session:1")
    made = await deploy(place, wanted)
    assert (
        made.mcp_endpoint == "https://cci-gateway-abc123.happy-sea.eastus.azurecontainerapps.io/mcp"
    )
    (connection,) = bodies
    secrets = {one["name"]: one["value"] for one in next(iter(cloud._secrets.values()))}
    assert connection["target"] == made.mcp_endpoint
    assert connection["credentials"]["keys"]["x-ms-apikey"] == secrets["serve-key"]
    writes = len(cloud.writes)
    await deploy(place, options(suffix="abc123"))
    assert len(cloud.writes) == writes
    await down(options(suffix="abc123"), azure=place.azure).finish()
    assert cloud.resources == {}


async def test_a_named_account_or_project_is_used_and_stays(place: Place) -> None:
    cloud = place.cloud
    cloud.add_group("theirs")
    account = cloud.add(ACCOUNT, "shared", "theirs", location="swedencentral")
    project = cloud.add(f"{ACCOUNT}/shared/projects", "team", "theirs")
    cloud.resources[project.lower()]["type"] = f"{ACCOUNT}/projects"
    kept = set(cloud.resources)
    with pytest.raises(ProvisioningError, match="swedencentral does not offer") as caught:
        await deploy(place, options(suffix="abc123", foundry_project=project))
    assert "gpt-5.4-mini" in str(caught.value)
    assert set(cloud.resources) == kept  # refused before anything was written
    wanted = options(suffix="abc123", foundry_project=project, model="gpt-5.4-mini")
    made = await deploy(place, wanted)
    assert made.foundry is not None
    assert made.foundry.project_id == project
    assert list_foundry(place) - {"accounts shared", "projects team"} == {
        "deployments gpt-5.4-mini",
        "connections code-interpreter",
    }
    again = await deploy(place, options(suffix="abc123"))
    assert again.foundry == made.foundry
    cloud.foundry.agents = ["analyst"]  # of somebody else's project, which stays
    await down(options(suffix="abc123"), azure=place.azure).finish()
    assert set(cloud.resources) == kept
    # in an account that was named, the project is ours
    wanted = options(suffix="abc123", foundry_account=account, model="gpt-5.4-mini")
    await deploy(place, wanted)
    assert "projects cci-project-abc123" in list_foundry(place)
    await down(options(suffix="abc123"), azure=place.azure, remove_agents=True).finish()
    assert set(cloud.resources) == kept
    assert cloud.foundry.deleted == {}


async def test_agents_are_not_removed_without_a_word(place: Place) -> None:
    cloud = place.cloud
    await deploy(place, options(**OURS))
    cloud.foundry.agents = ["analyst", "planner", "writer"]
    kept = set(cloud.resources)
    with pytest.raises(ProvisioningError, match="3 agents: analyst, planner, writer") as caught:
        await down(options(suffix="abc123"), azure=place.azure).finish()
    assert (caught.value.code, "--remove-agents" in str(caught.value.hint)) == (
        "ProjectHasAgents",
        True,
    )
    cloud.foundry.agents = None
    with pytest.raises(ProvisioningError, match="may have agents"):
        await down(options(suffix="abc123"), azure=place.azure).finish()
    assert set(cloud.resources) == kept
    await down(options(suffix="abc123"), azure=place.azure, remove_agents=True).finish()
    assert cloud.resources == {}


async def test_an_account_that_may_not_be_purged_is_restored_by_the_next_up(place: Place) -> None:
    cloud = place.cloud
    await deploy(place, options(**OURS))
    message = "The client does not have authorization to perform action 'purge'."
    refusal = Fault("DELETE", "deletedaccounts", 403, "AuthorizationFailed", message)
    cloud.faults.append(refusal)
    progress = await collect_progress(down(options(suffix="abc123"), azure=place.azure))
    (note,) = [one.message for one in progress if one.state == "note"]
    assert "48 hours" in note
    assert "az cognitiveservices account purge" in note
    assert len(cloud.foundry.deleted) == 1
    progress = await collect_progress(up(options(**OURS), azure=place.azure, try_out=False))
    assert any("restored Foundry account" in one.message for one in progress)
    assert list_foundry(place) == MADE
    assert cloud.foundry.deleted == {}
    # a purge that failed is made up for, even when the account is gone
    await down(options(suffix="abc123"), azure=place.azure).finish()
    assert len(cloud.foundry.deleted) == 1
    cloud.faults.clear()
    await down(options(suffix="abc123"), azure=place.azure).finish()
    assert cloud.foundry.deleted == {}


async def test_an_account_with_projects_of_others_stays(place: Place) -> None:
    cloud = place.cloud
    await deploy(place, options(**OURS))
    other = cloud.add(f"{ACCOUNT}/cci-foundry-abc123/projects", "team", GROUP)
    cloud.resources[other.lower()]["type"] = f"{ACCOUNT}/projects"
    done = await down(options(suffix="abc123"), azure=place.azure).finish()
    assert list_foundry(place) == {"accounts cci-foundry-abc123", "projects team"}
    assert any(one.endswith("cci-foundry-abc123") for one in done.left)


async def test_a_connection_that_leads_elsewhere_is_not_replaced(place: Place) -> None:
    await deploy(place, options(**OURS))
    (connection,) = place.cloud.of_type(f"{ACCOUNT}/projects/connections")
    connection["properties"] |= {"target": "https://other.example/mcp", "metadata": {}}
    with pytest.raises(ProvisioningError, match="leads elsewhere"):
        await deploy(place, options(**OURS))


@pytest.mark.parametrize(
    ("offered", "more", "words"),
    [
        ([offer("gpt-6-luna")], {}, "does not offer the model gpt-5.6-luna; it offers gpt-6-luna"),
        (
            [offer("gpt-5.6-luna", ends="2026-01-01"), offer("gpt-6-luna")],
            {},
            "was retired in eastus on 2026-01-01; it offers gpt-6-luna",
        ),
        (
            [offer("gpt-5.6-luna", skus=("DataZoneStandard",))],
            {},
            "as DataZoneStandard, not as GlobalStandard",
        ),
        ([offer("gpt-5.6-luna", "7")], {"model_version": "9"}, "in the versions 7, not 9"),
    ],
)
async def test_a_model_that_the_region_lacks_is_refused_with_the_reason(
    place: Place, offered: list[Any], more: dict[str, Any], words: str
) -> None:
    place.cloud.foundry.offered["eastus"] = offered
    for work in (plan, up):
        with pytest.raises(ProvisioningError, match=words) as caught:
            await work(options(**OURS, **more), azure=place.azure).finish()
        assert caught.value.code == "ModelNotOffered"
    assert place.cloud.resources == {}


async def test_azures_own_refusal_of_a_model_keeps_its_reason(place: Place) -> None:
    quota = "This operation requires 10 new capacity in quota, which is more than available."
    place.cloud.faults.append(Fault("PUT", "/deployments/", 400, "InsufficientQuota", quota, 1))
    with pytest.raises(ProvisioningError, match="10 new capacity") as caught:
        await deploy(place, options(**OURS))
    assert "--model-capacity" in str(caught.value.hint)
    # where Azure does not list the models, its refusal is what is reported
    refusal = Fault("GET", "/locations/", 403, "AuthorizationFailed", "No right to read.")
    place.cloud.faults = [refusal]
    with pytest.raises(ProvisioningError, match="not supported in this region"):
        await deploy(place, options(**OURS, model="gpt-unknown"))
    assert (await deploy(place, options(**OURS))).foundry is not None


async def test_a_project_that_does_not_exist_is_refused_before_anything_is_made(
    place: Place,
) -> None:
    missing = f"/subscriptions/{'0' * 8}-0000-0000-0000-000000000001/resourceGroups/g/providers/"
    missing += f"{ACCOUNT}/none/projects/none"
    with pytest.raises(ProvisioningError, match="does not exist, or you may not read it"):
        await deploy(place, options(foundry_project=missing))
    assert place.cloud.resources == {}
    with pytest.raises(ConfigurationError, match="--foundry-account has no effect"):
        options(foundry_project=missing, foundry_account=missing.partition("/projects")[0])
    with pytest.raises(ConfigurationError, match="is not a resource id"):
        options(foundry_account="mine")
    with pytest.raises(ConfigurationError, match="through the gateway"):
        options(**{**CUSTOM, "gateway": False})


async def test_the_doctor_judges_the_model_of_the_project(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cci_plugins.foundry", exc_type=ConfigurationError)
    made = await deploy(place, options(**OURS))
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CCI_ARM_ENDPOINT", place.azure.endpoint)
    found = await check_model(place)
    assert (found.status, "eastus offers it" in found.message) == ("ok", True)
    place.cloud.foundry.offered["eastus"] = [offer("gpt-5.6-luna", ends=str(SOON)), offer("b")]
    found = await check_model(place)
    assert (found.status, str(SOON) in found.message) == ("warning", True)
    place.cloud.foundry.offered["eastus"] = [offer("gpt-6-luna")]
    found = await check_model(place)
    assert (found.status, "it offers gpt-6-luna" in found.message) == ("failed", True)
    place.cloud.foundry.offered.clear()  # Azure does not say what it offers
    assert (await check_model(place)).status == "ok"
    monkeypatch.setenv("FOUNDRY_MODEL_DEPLOYMENT_NAME", "other")
    found = await check_model(place)
    assert (found.status, "it has gpt-5.6-luna" in found.message) == ("failed", True)


SOON = datetime.now(UTC).date() + timedelta(days=10)


async def check_model(place: Place) -> Any:
    from cci_plugins.doctor import context, findings
    from cci_plugins.doctor import foundry as checks
    from cci_plugins.doctor.engine import _run_check

    mask = findings.Mask(show_ids=True)
    credential = place.azure.credential
    checked = context.Context(credential, mask, ca=place.running.ca, local_only=False)  # type: ignore[arg-type]
    checked.done["foundry.project"] = findings.Finding("foundry.project", "ok", "")
    (check,) = [one for one in checks.CHECKS if one.id == "foundry.model"]
    try:
        return await _run_check(check, checked, {}, None)
    finally:
        await checked.aclose()
