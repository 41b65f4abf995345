"""Each refusal of Azure names its fix, and no secret is ever reported."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    ProvisioningError,
)
from cci_plugins.provisioning import down, up
from cci_plugins.provisioning.inventory import find_only_subscription

from ._cloud import Fault
from ._cloud.values import SECRETS, SUBSCRIPTION
from ._provision import GROUP, Place, deploy, open_place, options

pytestmark = pytest.mark.anyio

BUILDS = {"kind": "custom", "gateway": True}
SUB = f"/subscriptions/{SUBSCRIPTION}"
ROLES = "Role Based Access Control Administrator"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with open_place(tmp_path, monkeypatch) as found:
        yield found


def forbidden(method: str, part: str, action: str) -> Fault:
    """Build Azure's answer for a missing role."""
    message = (
        "The client 'me@example.org' with object id '2222' does not have authorization to perform "
        f"action '{action}' over scope '{SUB}/resourceGroups/{GROUP}' or the scope is invalid. If "
        "access was recently granted, please refresh your credentials."
    )
    return Fault(method, part, 403, "AuthorizationFailed", message)


REFUSALS: list[Any] = [
    (
        forbidden(
            "POST", "microsoft.features", "Microsoft.Features/providers/features/register/action"
        ),
        [
            "Contributor",
            "the subscription",
            "az feature register --namespace Microsoft.App --name SessionPoolsSupportMCP",
        ],
        {},
    ),
    (
        forbidden("POST", "microsoft.app/register", "Microsoft.App/register/action"),
        ["Contributor", "the subscription", "az provider register --namespace Microsoft.App"],
        {},
    ),
    (
        forbidden("POST", "microsoft.storage/register", "Microsoft.Storage/register/action"),
        ["az provider register --namespace Microsoft.Storage"],
        {},
    ),
    (
        forbidden(
            "PUT", "resourcegroups/group", "Microsoft.Resources/subscriptions/resourceGroups/write"
        ),
        ["Contributor", "the subscription"],
        {},
    ),
    (
        forbidden("PUT", "sessionpools/", "Microsoft.App/sessionPools/write"),
        ["Container Apps SessionPools Contributor", "the resource group"],
        {},
    ),
    (
        forbidden("PUT", "roleassignments", "Microsoft.Authorization/roleAssignments/write"),
        [ROLES, "az role assignment create"],
        BUILDS,
    ),
    (
        forbidden("PUT", "managedenvironments", "Microsoft.App/managedEnvironments/write"),
        ["Contributor", "the resource group"],
        BUILDS,
    ),
    (
        forbidden("PUT", "registries", "Microsoft.ContainerRegistry/registries/write"),
        ["Contributor"],
        BUILDS,
    ),
    (
        forbidden(
            "POST",
            "listbuildsource",
            "Microsoft.ContainerRegistry/registries/listBuildSourceUploadUrl/action",
        ),
        ["Contributor"],
        BUILDS,
    ),
    (
        forbidden("PUT", "userassigned", "Microsoft.ManagedIdentity/userAssignedIdentities/write"),
        ["Contributor"],
        BUILDS,
    ),
    (
        forbidden("PUT", "storageaccounts", "Microsoft.Storage/storageAccounts/write"),
        ["Contributor"],
        {},
    ),
    (
        forbidden("PUT", "containerapps", "Microsoft.App/containerApps/write"),
        ["Contributor"],
        BUILDS,
    ),
    (
        forbidden("GET", "sessionpools/", "Microsoft.App/sessionPools/read"),
        ["Container Apps SessionPools Contributor"],
        {},
    ),
    (
        Fault("PUT", "storageaccounts/", 409, "StorageAccountAlreadyTaken", "The name is taken."),
        ["--suffix"],
        {},
    ),
    (
        Fault("PUT", "sessionpools/", 403, "RequestDisallowedByPolicy", "A policy says no."),
        ["policy"],
        {},
    ),
    (
        Fault("PUT", "sessionpools/", 400, "SessionTypeNotSupportedInRegion", "Not here."),
        ["--location"],
        {},
    ),
    (
        Fault(
            "PUT",
            "managedenvironments",
            400,
            "MaxNumberOfRegionalEnvironmentsInSubExceeded",
            "The quota of environments is reached.",
            later=True,
        ),
        ["--suffix", "quota"],
        BUILDS,
    ),
    (Fault("PUT", "sessionpools/", code="SessionPoolQuotaExceeded", later=True), ["quota"], {}),
    (Fault("PUT", "resourcegroups/group", 409, "ScopeLocked", "A lock."), ["az lock list"], {}),
    (
        Fault("GET", "/providers/", 401, "InvalidAuthenticationTokenTenant", "The wrong tenant."),
        ["az login --tenant"],
        {},
    ),
]


@pytest.mark.quick(
    "POST microsoft.features AuthorizationFailed",
    "PUT resourcegroups/group AuthorizationFailed",
    "PUT sessionpools/ AuthorizationFailed",
    "PUT roleassignments AuthorizationFailed",
    "GET sessionpools/ AuthorizationFailed",
    "PUT storageaccounts/ StorageAccountAlreadyTaken",
    "PUT managedenvironments MaxNumberOfRegionalEnvironmentsInSubExceeded",
    "PUT resourcegroups/group ScopeLocked",
    "GET /providers/ InvalidAuthenticationTokenTenant",
)
@pytest.mark.parametrize(
    ("fault", "named", "wanted"),
    [pytest.param(*one, id=f"{one[0].method} {one[0].part} {one[0].code}") for one in REFUSALS],
)
async def test_a_refusal_names_the_fix(
    place: Place, fault: Fault, named: list[str], wanted: dict[str, Any]
) -> None:
    place.cloud.faults.append(fault)
    with pytest.raises(CodeInterpreterError) as caught:
        await deploy(place, options(**wanted))
    assert isinstance(caught.value, ProvisioningError | AuthenticationError)
    assert fault.code in str(caught.value)
    for text in named:
        assert text in str(caught.value.hint)
    place.cloud.faults.clear()
    await deploy(place, options(**wanted))  # and then it continues


async def test_a_region_without_session_pools_is_an_error(place: Place) -> None:
    with pytest.raises(ProvisioningError, match="not available") as caught:
        await deploy(place, options(location="Mars North"))
    assert "--location" in str(caught.value.hint)


async def test_a_missing_subscription_is_an_error(place: Place) -> None:
    other = "99999999-0000-0000-0000-000000000009"
    with pytest.raises(ProvisioningError, match="SubscriptionNotFound") as caught:
        await deploy(place, options(subscription=other))
    assert "az account list" in str(caught.value.hint)


async def test_a_feature_that_waits_for_an_approval_is_an_error(place: Place) -> None:
    place.cloud.everything_registered()
    place.cloud.feature = "Registering"
    place.cloud._registering["feature"] = 10_000
    azure = replace(place.azure, patience=timedelta(milliseconds=30))
    with pytest.raises(ProvisioningError, match="still not registered"):
        await up(options(), azure=azure, try_out=False).finish()
    place.cloud.feature = "Pending"
    with pytest.raises(ProvisioningError, match="approval") as caught:
        await deploy(place, options())
    assert "az feature register" in str(caught.value.hint)


async def test_a_dropped_mcp_server_is_an_error_with_a_hint(place: Place) -> None:
    place.cloud.drops_mcp = True
    with pytest.raises(ProvisioningError, match="dropped mcpServerSettings") as caught:
        await deploy(place, options())
    assert "--location" in str(caught.value.hint)
    assert "AZURE_SESSION_POOL_ENDPOINT=" in str(caught.value.hint)


async def test_a_note_explains_that_a_custom_pool_has_no_mcp_server(place: Place) -> None:
    deployment = await deploy(place, options(kind="custom"))
    assert deployment.mcp_endpoint is None
    assert any("issues/822" in note and "--gateway" in note for note in deployment.notes)


async def test_a_slow_step_is_an_error_with_a_hint(place: Place) -> None:
    place.cloud.looks = 100_000
    azure = replace(place.azure, patience=timedelta(milliseconds=200))
    with pytest.raises(ProvisioningError, match="longer than") as caught:
        await up(options(), azure=azure, try_out=False).finish()
    assert "continues from here" in str(caught.value.hint)


async def test_a_failed_sign_in_is_an_error_with_a_hint(place: Place) -> None:
    place.running.entra.refuses = True
    with pytest.raises(AuthenticationError, match="AADSTS7000215") as caught:
        await deploy(place, options())
    assert "az login" in str(caught.value.hint)


@pytest.mark.slow
async def test_an_unreachable_azure_is_an_error(place: Place) -> None:
    azure = replace(place.azure, endpoint="https://127.0.0.1:9", credential="a.token.given")
    with pytest.raises(ProvisioningError, match="cannot be reached"):
        await up(options(principal_id="22222222-0000-0000-0000-000000000001"), azure=azure).finish()


async def test_a_token_without_an_object_id_needs_a_principal(place: Place) -> None:
    azure = replace(place.azure, credential="no-claims")
    with pytest.raises(ProvisioningError, match="does not name who is signed in") as caught:
        await up(options(), azure=azure).finish()
    assert "--principal-id" in str(caught.value.hint)


async def test_a_single_subscription_is_used_and_several_are_listed(place: Place) -> None:
    assert await find_only_subscription(place.azure) == SUBSCRIPTION
    place.cloud.subscriptions.append(("9" * 8, "Production"))
    with pytest.raises(ConfigurationError, match="Development, Production"):
        await find_only_subscription(place.azure)
    place.cloud.subscriptions.clear()
    with pytest.raises(ConfigurationError, match="has no subscription"):
        await find_only_subscription(place.azure)


async def test_no_secret_is_reported_logged_or_written_to_a_file(
    place: Place,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx").setLevel(logging.DEBUG)
    path = tmp_path / ".env"
    seen: list[str] = []
    for wanted in ({}, BUILDS):
        run = up(options(**wanted), azure=place.azure, env_file=path, try_out=False)
        seen += [repr(progress) async for progress in run]
        seen += [repr(run), repr(run.result), str(run.result.environment())]
        await down(options(**wanted), azure=place.azure).finish()
    place.cloud.tasks.fails = True
    leak = f"see https://x.blob.core.windows.net/y?sv=1&sig={SECRETS[1]} Bearer {SECRETS[5]}"
    for fault in (
        Fault("PUT", "taskruns", later=True, message=leak),
        Fault("PUT", "sessionpools", message=leak),
    ):
        place.cloud.faults = [fault]
        with pytest.raises(CodeInterpreterError) as caught:
            await deploy(place, options(**BUILDS))
        seen += [repr(caught.value), str(caught.value), str(caught.getrepr(showlocals=False))]
        place.cloud.tasks.fails = False
    out, err = capfd.readouterr()
    seen += [path.read_text(), repr(place.azure), out, err]
    seen += [  # but not what the fake cloud's own server logs
        record.getMessage() for record in caplog.records if not record.name.startswith("uvicorn")
    ]
    (kept,) = place.cloud._secrets.values()
    for secret in (*SECRETS, *(one["value"] for one in kept)):
        found = [text[max(0, text.index(secret) - 200) :][:400] for text in seen if secret in text]
        assert found == [], secret
    assert caplog.records  # the SDK did log
