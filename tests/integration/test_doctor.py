"""Tests that `cci doctor` finds each planted fault and prints its fix. The cloud is a fake."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.responses import Response

from cci_plugins.doctor import CHECKS, Finding, diagnose, engine, machine, pool
from cci_plugins.doctor.engine import Check
from cci_plugins.doctor.findings import Outcome
from cci_plugins.pools.local.pool import LocalSessionPool

from ._azurite import CONTAINER, KEY, Azurite, running_azurite
from ._cloud import Fault, Running, role_gate, running
from ._cloud.cloud import EXECUTOR
from ._cloud.values import (
    DATA_TOKEN,
    POOL_KEY,
    ROLES,
    ROTATED_KEY,
    SECRETS,
    SUBSCRIPTION,
    USER,
    _part,
)
from ._emulated import emulated
from ._provision import GROUP
from .test_cli_provision import Command

pytestmark = pytest.mark.anyio

NAME = "my-own-pool"
GROUP_ID = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
POOL = f"{GROUP_ID}/providers/Microsoft.App/sessionPools/{NAME}"
ROLE = {str(role["roleName"]): name for name, role in ROLES.items()}
QUICK = timedelta(seconds=50)


@dataclass
class Scene:
    """A working pool with its cloud, and methods that break it."""

    running: Running
    environment: pytest.MonkeyPatch
    url: str

    @property
    def cloud(self) -> Any:
        return self.running.cloud

    @property
    def pool(self) -> dict[str, Any]:
        """Properties of the pool in Resource Manager."""
        return self.cloud.resources[POOL.lower()]["properties"]

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self.environment.setenv(name, value)

    def remove_role(self, role: str) -> None:
        kind = "microsoft.authorization/roleassignments"
        for key, one in list(self.cloud.resources.items()):
            definition = str(one["properties"].get("roleDefinitionId"))
            if kind in key and definition.endswith(ROLE[role]):
                del self.cloud.resources[key]

    async def report(self, **options: Any) -> dict[str, Finding]:
        """Return the findings by id, after checking that none shows a secret."""
        credential = self.running.credential()
        with closing(credential), anyio.fail_after(90):
            found = [
                one
                async for one in diagnose(
                    **({"credential": credential, "ca": self.running.ca, "limit": QUICK} | options)
                )
            ]
        assert tuple(one.id for one in found) == CHECKS
        shown = repr(found)
        assert [secret for secret in SECRETS if secret in shown] == []
        for one in found:
            assert bool(one.fix) or one.status in {"ok", "skipped"}, one
        return {one.id: one for one in found}


@asynccontextmanager
async def _create_scene(
    folder: Path, environment: pytest.MonkeyPatch, kind: str
) -> AsyncIterator[Scene]:
    for name in list(os.environ):
        if name.startswith(("CCI_", "AZURE_", "MCP_", "FOUNDRY_", "ACA_")):
            environment.delenv(name)
    environment.chdir(folder)
    with running(folder) as cloud:
        environment.setenv("SSL_CERT_FILE", str(cloud.ca))
        environment.setenv("CCI_ARM_ENDPOINT", cloud.url)
        gate = partial(role_gate, cloud.cloud)
        is_python = kind == "platform"
        async with emulated(LocalSessionPool(), gate, kind=kind) as pool:
            scene = Scene(cloud, environment, pool.url)
            cloud.cloud.everything_registered()
            cloud.cloud.add_group(GROUP)
            cloud.cloud.add(
                "Microsoft.App/sessionPools",
                NAME,
                GROUP,
                properties={
                    "provisioningState": "Succeeded",
                    "containerType": "PythonLTS" if is_python else "CustomContainer",
                    "poolManagementEndpoint": pool.url,
                    "sessionNetworkConfiguration": {"status": "EgressDisabled"},
                }
                | (
                    {
                        "mcpServerSettings": {
                            "isMcpServerEnabled": True,
                            "mcpServerEndpoint": f"{pool.url}/mcp",
                        }
                    }
                    if is_python
                    else {}
                ),
            )
            cloud.cloud.assign(ROLE["Contributor"], GROUP_ID)
            cloud.cloud.assign(ROLE["Role Based Access Control Administrator"], GROUP_ID)
            cloud.cloud.assign(EXECUTOR, POOL)
            scene.set(AZURE_SESSION_POOL_RESOURCE_ID=POOL, CCI_POOL=kind)
            if not is_python:
                scene.set(AZURE_SESSION_POOL_ENDPOINT=pool.url)
            yield scene
        assert cloud.cloud.wrong == []


@pytest.fixture
async def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with _create_scene(tmp_path, monkeypatch, "platform") as scene:
        yield scene


@pytest.fixture
async def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with _create_scene(tmp_path, monkeypatch, "custom") as scene:
        yield scene


@pytest.fixture
def _run_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the first run, which comes after each planted fault and costs a kernel."""
    run = engine._run_with_limit

    async def run_with_limit(check: Check, context: Any, limit: timedelta) -> Outcome:
        if check.id == "pool.run":
            return Outcome("skipped", "a kernel is not part of this test")
        return await run(check, context, limit)

    monkeypatch.setattr(engine, "_run_with_limit", run_with_limit)


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with running_azurite(tmp_path_factory.mktemp("azurite")) as found:
        yield found


def _list_faults(report: dict[str, Finding]) -> dict[str, str]:
    return {
        one.id: f"{one.status}: {one.message}"
        for one in report.values()
        if one.status not in {"ok", "skipped"}
    }


async def test_a_working_platform_pool_has_no_fault(platform: Scene) -> None:
    report = await platform.report()
    assert _list_faults(report) == {}
    for name in ("auth.sign-in", "azure.feature", "azure.roles.key", "pool.key", "pool.run"):
        assert report[name].status == "ok", report[name]
    assert platform.cloud.writes == []


async def test_a_working_custom_pool_has_no_fault(custom: Scene) -> None:
    report = await custom.report()
    assert _list_faults(report) == {}
    for name in ("auth.token", "azure.roles.execute", "pool.mcp-settings", "pool.run"):
        assert report[name].status == "ok", report[name]
    assert report["azure.feature"].status == "skipped"


def _set_expired_token(scene: Scene) -> None:
    claims = {"aud": "https://dynamicsessions.io", "exp": int(time.time()) - 600}
    scene.set(CCI_ACCESS_TOKEN=f"{_part({})}.{_part(claims)}.planted-token")


def _set_token_for_another_service(scene: Scene) -> None:
    claims = {"aud": "https://management.azure.com/", "exp": int(time.time()) + 600}
    scene.set(CCI_ACCESS_TOKEN=f"{_part({})}.{_part(claims)}.planted-token")


_SILENT: list[socket.socket] = []


@pytest.fixture(scope="module", autouse=True)
def _hold_a_port() -> Iterator[None]:
    """Hold a port without listening, so that connections to it are refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        _SILENT[:] = [bound]
        yield


def _unused_port() -> int:
    return int(_SILENT[0].getsockname()[1])


def _refuse_request(scene: Scene, part: str, code: str = "AuthorizationFailed") -> None:
    message = (
        f"The client does not have authorization to perform action 'Microsoft.App/read' over "
        f"scope '{POOL}' or the scope is invalid."
    )
    scene.cloud.faults.append(Fault("GET", part, 403, code, message))


Plant = Callable[[Scene], Any]
PLATFORM_FAULTS: dict[str, tuple[Plant, str, str, str]] = {
    "a setting that is not a number": (
        lambda s: s.set(CCI_TIMEOUT="soon"), "local.settings", "failed", "CCI_TIMEOUT"),
    "half a configuration": (
        lambda s: (s.environment.delenv("AZURE_SESSION_POOL_RESOURCE_ID"),
                   s.set(AZURE_SESSION_POOL_MCP_ENDPOINT=s.url)),
        "local.settings", "failed", "set AZURE_SESSION_POOL_MCP_KEY"),
    "a variable that is misspelt": (
        lambda s: s.set(CCI_TIMOUT="5"), "local.settings", "warning", "unset CCI_TIMOUT"),
    "an endpoint that is not a URL": (
        lambda s: s.set(AZURE_SESSION_POOL_MCP_ENDPOINT="pool.example/mcp"),
        "local.settings", "failed", "https://"),
    "the sign-in fails": (
        lambda s: setattr(s.running.entra, "refuses", True), "auth.sign-in", "failed", "az login"),
    "another subscription is signed in": (
        lambda s: setattr(s.cloud, "subscriptions", [("9" * 36, "x")]),
        "auth.subscription", "failed", "az account set --subscription"),
    "the subscription is disabled": (
        lambda s: setattr(s.cloud, "subscription_state", "Disabled"),
        "auth.subscription", "failed", "enable it again"),
    "the provider is not registered": (
        lambda s: s.cloud.registered.pop("microsoft.app"),
        "azure.provider", "failed", "az provider register --namespace Microsoft.App --wait"),
    "the provider is being registered": (
        lambda s: (s.cloud.registered.update({"microsoft.app": "Registering"}),
                   s.cloud._registering.update({"microsoft.app": 99})),
        "azure.provider", "warning", "cci doctor again"),
    "the feature is not registered": (
        lambda s: setattr(s.cloud, "feature", "NotRegistered"),
        "azure.feature", "failed",
        "az feature register --namespace Microsoft.App --name SessionPoolsSupportMCP"),
    "the feature is being registered": (
        lambda s: (setattr(s.cloud, "feature", "Registering"),
                   s.cloud._registering.update({"feature": 99})),
        "azure.feature", "warning", "az provider register --namespace Microsoft.App"),
    "no session pools in the region": (
        lambda s: setattr(s.cloud, "regions", ["West Europe"]),
        "azure.region", "failed", "westeurope"),
    "no role to provision": (
        lambda s: s.remove_role("Role Based Access Control Administrator"),
        "azure.roles.provision", "warning", "Role Based Access Control Administrator"),
    "no role to fetch the key": (
        lambda s: s.remove_role("Contributor"),
        "azure.roles.key", "failed", "Container Apps SessionPools Contributor"),
    "roles may not be read": (
        lambda s: _refuse_request(s, "/roleassignments"),
        "azure.roles.provision", "unknown", "Reader"),
    "the pool may not be read": (
        lambda s: _refuse_request(s, "/sessionpools/"), "pool.exists", "failed", "role"),
    "there is no such pool": (
        lambda s: s.cloud.resources.pop(POOL.lower()), "pool.exists", "failed", "cci provision up"),
    "the pool's last change failed": (
        lambda s: s.pool.update(provisioningState="Failed"),
        "pool.state", "failed", "cci provision up"),
    "the pool is being changed": (
        lambda s: s.pool.update(provisioningState="InProgress"),
        "pool.state", "warning", "cci doctor again"),
    "mcpServerSettings were dropped": (
        lambda s: (s.pool.pop("mcpServerSettings"), s.pool.update(containerType="CustomContainer")),
        "pool.mcp-settings", "failed", "CCI_POOL=custom"),
    "the MCP server is not enabled": (
        lambda s: s.pool.pop("mcpServerSettings"),
        "pool.mcp-settings", "failed", "cci provision up --kind python"),
    "the endpoint is another pool's": (
        lambda s: s.set(AZURE_SESSION_POOL_MCP_ENDPOINT=f"{s.url}/other/mcp"),
        "pool.address", "failed", "AZURE_SESSION_POOL_MCP_ENDPOINT="),
    "the key was rotated": (
        lambda s: s.set(AZURE_SESSION_POOL_MCP_KEY="planted-old-key"),
        "pool.key", "warning", "unset AZURE_SESSION_POOL_MCP_KEY"),
    "nothing listens at the endpoint": (
        lambda s: s.pool["mcpServerSettings"].update(
            mcpServerEndpoint=f"http://127.0.0.1:{_unused_port()}/mcp"),
        "pool.endpoint", "failed", "network"),
    "the key is wrong": (
        lambda s: setattr(s.cloud, "key", "planted-key-that-is-wrong"),
        "pool.tools", "failed", "key"),
}  # fmt: skip
CUSTOM_FAULTS: dict[str, tuple[Plant, str, str, str]] = {
    "no container gets ready": (
        lambda s: s.pool.update(templateUpdateStatus={"desiredTemplate": {
            "status": {"expectedCount": 1, "readyCount": 0, "imagePullFailCount": 3}}}),
        "pool.state", "failed", "AcrPull"),
    "a token that expired": (_set_expired_token, "auth.token", "failed", "CCI_ACCESS_TOKEN"),
    "a token for something else": (
        _set_token_for_another_service, "auth.token", "failed", "--resource https://dynamicsessions.io"),
    "no role to run code": (
        lambda s: s.remove_role("Azure ContainerApps Session Executor"),
        "azure.roles.execute", "failed",
        'az role assignment create --role "Azure ContainerApps Session Executor"'),
    "the endpoint is another pool's": (
        lambda s: s.set(AZURE_SESSION_POOL_ENDPOINT="http://127.0.0.1:9/other"),
        "pool.address", "failed", "AZURE_SESSION_POOL_ENDPOINT="),
}  # fmt: skip


async def _check_fault_is_found(scene: Scene, fault: tuple[Plant, str, str, str]) -> None:
    plant, check, status, fix = fault
    plant(scene)
    report = await scene.report(show_ids=True)
    found = report[check]
    assert (found.status, fix in found.fix) == (status, True), found
    first = next(iter(_list_faults(report)))
    assert first == check or report[first].id.startswith("azure.roles"), _list_faults(report)


@pytest.mark.usefixtures("_run_nothing")
@pytest.mark.parametrize("fault", PLATFORM_FAULTS)
async def test_a_fault_of_a_platform_pool_is_found(platform: Scene, fault: str) -> None:
    await _check_fault_is_found(platform, PLATFORM_FAULTS[fault])


@pytest.mark.usefixtures("_run_nothing")
@pytest.mark.parametrize("fault", CUSTOM_FAULTS)
async def test_a_fault_of_a_custom_pool_is_found(custom: Scene, fault: str) -> None:
    await _check_fault_is_found(custom, CUSTOM_FAULTS[fault])


async def test_checks_that_need_a_failed_check_are_skipped(platform: Scene) -> None:
    platform.running.entra.refuses = True
    report = await platform.report()
    assert report["pool.run"].status == "skipped"
    assert report["pool.run"].message == "auth.sign-in must succeed first"
    assert [one for one, finding in report.items() if finding.status == "failed"] == [
        "auth.sign-in"
    ]


async def test_names_and_ids_are_hidden_by_default(platform: Scene) -> None:
    _refuse_request(platform, "/roleassignments")
    shown = repr(await platform.report())
    hidden = (SUBSCRIPTION, NAME, USER, platform.url)
    assert [name for name in hidden if name in shown] == []
    assert "<session pool>" in shown
    shown = repr(await platform.report(show_ids=True))
    assert [name for name in hidden if name not in shown] == []


async def test_text_from_a_server_cannot_control_the_terminal(platform: Scene) -> None:
    message = "no\x1b]0;title\x07\x1b[2J\nfailed   pool.run: forged"
    platform.cloud.faults.append(Fault("GET", "/sessionpools/", 400, "Bad", message))
    found = (await platform.report())["pool.exists"]
    assert found.status == "failed"
    assert found.message.isprintable()


async def test_local_only_sends_no_request(platform: Scene) -> None:
    report = await platform.report(local_only=True)
    assert {one.status for one in report.values() if not one.id.startswith("local.")} == {"skipped"}
    assert not platform.cloud.requests


def _limit(environment: pytest.MonkeyPatch, name: str) -> None:
    """Give one check a second, however busy the machine is with the others."""
    run = engine._run_with_limit

    async def run_with_limit(check: Check, context: Any, limit: timedelta) -> Any:
        return await run(check, context, timedelta(seconds=1) if check.id == name else limit)

    environment.setattr(engine, "_run_with_limit", run_with_limit)


async def test_a_server_that_never_answers_has_an_unknown_result(platform: Scene) -> None:
    _limit(platform.environment, "pool.endpoint")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        platform.set(AZURE_SESSION_POOL_MCP_ENDPOINT=f"http://127.0.0.1:{port}/mcp")
        report = await platform.report()
    found = report["pool.endpoint"]
    assert (found.status, found.message) == ("unknown", "no answer within 1 s")
    assert report["pool.run"].status == "skipped"


async def test_a_sign_in_that_hangs_has_an_unknown_result(platform: Scene) -> None:
    answered = threading.Event()
    _limit(platform.environment, "auth.sign-in")

    class Hanging:
        def get_token(self, *_: str, **__: Any) -> Any:
            answered.wait(60)
            raise OSError("too late")

    try:
        report = await platform.report(credential=Hanging())
        assert not answered.is_set()
    finally:
        answered.set()
    found = report["auth.sign-in"]
    assert (found.status, found.message) == ("unknown", "no answer within 1 s")
    assert report["pool.run"].status == "skipped"


async def test_an_unreachable_pool_is_the_first_failure(platform: Scene) -> None:
    platform.environment.delenv("AZURE_SESSION_POOL_RESOURCE_ID")
    url = f"http://127.0.0.1:{_unused_port()}/mcp"
    platform.set(AZURE_SESSION_POOL_MCP_ENDPOINT=url, AZURE_SESSION_POOL_MCP_KEY=POOL_KEY)
    assert list(_list_faults(await platform.report())) == ["pool.endpoint"]


async def test_a_key_sent_without_encryption_is_a_warning(platform: Scene) -> None:
    platform.environment.setattr(pool, "_LOOPBACK_HOSTS", ())
    found = (await platform.report())["pool.endpoint"]
    assert (found.status, "without encryption" in found.message) == ("warning", True)
    assert "use https" in found.fix


async def test_a_wrong_clock_is_found(platform: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = platform.cloud.answer

    async def late(request: Any) -> Response:
        response = await answer(request)
        response.headers["date"] = "Mon, 02 Nov 2026 10:00:00 GMT"
        return response

    monkeypatch.setattr(platform.cloud, "answer", late)
    from cci_plugins.doctor import sign_in

    server_time = sign_in.parsedate_to_datetime("Mon, 02 Nov 2026 10:00:00 GMT")
    monkeypatch.setattr(sign_in, "parsedate_to_datetime", lambda _: server_time)
    report = await platform.report()
    assert report["clock.skew"].status == "failed"
    assert "set-ntp" in report["clock.skew"].fix


def _use_storage(scene: Scene, azurite: Azurite) -> None:
    scene.set(
        AZURE_STORAGE_ACCOUNT=azurite.url,
        AZURE_STORAGE_CONTAINER=CONTAINER,
        AZURE_STORAGE_KEY=KEY,
        CCI_STORAGE_CA_FILE=str(azurite.ca),
    )


async def test_working_storage_has_no_fault(custom: Scene, azurite: Azurite) -> None:
    _use_storage(custom, azurite)
    report = await custom.report()
    faults = _list_faults(report)
    assert list(faults) == ["pool.egress"], faults  # its sessions have no network
    assert "EgressEnabled" in report["pool.egress"].fix
    for name in ("storage.reachable", "storage.private", "storage.sign", "storage.write-read"):
        assert report[name].status == "ok", report[name]
    assert azurite.blobs() == []


async def test_storage_without_its_container_is_found(custom: Scene, azurite: Azurite) -> None:
    _use_storage(custom, azurite)
    custom.set(AZURE_STORAGE_CONTAINER="not-there")
    report = await custom.report()
    assert report["storage.write-read"].status == "failed"
    assert "az storage container create" in report["storage.write-read"].fix


async def test_public_storage_is_found(custom: Scene, azurite: Azurite) -> None:
    _use_storage(custom, azurite)
    with azurite.container() as container:
        container.set_container_access_policy({}, public_access="container")
        try:
            report = await custom.report()
        finally:
            container.set_container_access_policy({}, public_access=None)
    assert report["storage.private"].status == "failed"
    assert "--allow-blob-public-access false" in report["storage.private"].fix


async def test_unreachable_storage_is_found(custom: Scene, azurite: Azurite) -> None:
    _use_storage(custom, azurite)
    custom.set(AZURE_STORAGE_ACCOUNT=f"https://127.0.0.1:{_unused_port()}/devstoreaccount1")
    report = await custom.report()
    assert report["storage.reachable"].status == "failed"
    assert "AZURE_STORAGE_ACCOUNT" in report["storage.reachable"].fix
    assert report["storage.write-read"].status == "skipped"


async def test_a_wrong_key_of_the_storage_is_found(custom: Scene, azurite: Azurite) -> None:
    _use_storage(custom, azurite)
    custom.set(AZURE_STORAGE_KEY="cGxhbnRlZC1rZXk=")
    report = await custom.report()
    assert report["storage.write-read"].status == "failed"


async def test_missing_roles_on_the_storage_are_found(custom: Scene) -> None:
    account = custom.cloud.add("Microsoft.Storage/storageAccounts", "mystorage", GROUP)
    container = f"{account}/blobServices/default/containers/files"
    custom.set(AZURE_STORAGE_ACCOUNT="mystorage", AZURE_STORAGE_CONTAINER="files")
    from cci_plugins.doctor import azure, context, findings

    async def check_roles() -> Any:
        credential = custom.running.credential()
        with closing(credential):
            opened = context.Context(
                credential, findings.Mask(show_ids=True), ca=custom.running.ca, local_only=False
            )
            try:
                return await azure._check_stage_roles(opened)
            finally:
                await opened.aclose()

    custom.remove_role("Contributor")
    assert "Storage Blob Data Contributor" in (await check_roles()).fix
    custom.cloud.assign(ROLE["Storage Blob Data Contributor"], container)
    assert "Storage Blob Delegator" in (await check_roles()).fix
    custom.cloud.assign(ROLE["Storage Blob Delegator"], account)
    assert (await check_roles()).status == "ok"


# --- the command


@pytest.fixture
def cci(tmp_path: Path) -> Iterator[Command]:
    with running(tmp_path) as cloud:
        command = Command(cloud, tmp_path)
        command.environment["CCI_READY_SESSIONS"] = "0"
        yield command
        assert cloud.cloud.wrong == []


async def test_the_command_on_a_laptop(cci: Command) -> None:
    code, out, messages = await cci("doctor", group="")
    assert code == 0, out + messages
    lines = out.splitlines()
    assert lines[0] == "ok       local.settings: the environment selects the pool local"
    assert any(line.startswith("ok       local.kernel: a kernel ran 1+1") for line in lines)
    assert messages.endswith("skipped\n")
    assert not cci.cloud.requests


async def test_the_command_as_json_with_a_failure(cci: Command) -> None:
    cci.environment |= {"CCI_POOL": "platform", "AZURE_SESSION_POOL_RESOURCE_ID": POOL}
    code, out, messages = await cci("doctor", "--json", group="")
    assert code == 5, messages
    report = json.loads(out)
    found = {one["id"]: one for one in report["findings"]}
    assert tuple(found) == CHECKS
    assert found["azure.provider"]["status"] == "failed"
    assert found["pool.exists"]["fix"].startswith("cci provision up")
    assert found["pool.run"] | {"seconds": 0} == {
        "id": "pool.run",
        "status": "skipped",
        "message": "pool.exists must succeed first",
        "fix": None,
        "seconds": 0,
    }
    assert report["counts"]["failed"] >= 2
    assert SUBSCRIPTION not in out + messages


async def test_the_command_prints_the_first_fix_as_a_hint(cci: Command) -> None:
    cci.environment |= {"CCI_TIMEOUT": "soon"}
    code, out, messages = await cci("doctor", group="")
    assert code == 3
    assert "fix: correct or unset CCI_TIMEOUT" in out
    assert "hint: correct or unset CCI_TIMEOUT; for no limit" in messages


async def test_a_key_that_others_can_read_is_a_warning(cci: Command) -> None:
    env = cci.folder / ".env"
    env.write_text(f"AZURE_SESSION_POOL_MCP_KEY={POOL_KEY}\nMCP_SERVER_URL=http://127.0.0.1:9\n")
    env.chmod(0o644)
    _, out, messages = await cci("doctor", "--local-only", group="")
    assert "fix: chmod 600 .env" in out
    assert [
        secret for secret in (POOL_KEY, DATA_TOKEN, ROTATED_KEY) if secret in out + messages
    ] == []


# --- this machine


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("CCI_", "AZURE_", "MCP_", "FOUNDRY_", "ACA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CCI_READY_SESSIONS", "0")
    monkeypatch.chdir(tmp_path)
    return monkeypatch


async def _diagnose_locally() -> dict[str, Finding]:
    return {one.id: one async for one in diagnose(local_only=True)}


@pytest.mark.skipif(sys.platform != "linux", reason="isolation backends of Linux")
async def test_weaker_isolation_is_a_warning(laptop: pytest.MonkeyPatch) -> None:
    laptop.setenv("CCI_ISOLATION", "landlock")
    found = await _diagnose_locally()
    assert found["local.isolation"].status == "warning"
    assert "apt install bubblewrap" in found["local.isolation"].fix
    assert found["local.kernel"].status == "ok"


async def test_missing_isolation_is_a_warning(laptop: pytest.MonkeyPatch) -> None:
    laptop.setenv("CCI_ISOLATION", "process")
    found = (await _diagnose_locally())["local.isolation"]
    assert (found.status, "unset CCI_ISOLATION" in found.fix) == ("warning", True)


async def test_a_missing_interpreter_is_found(laptop: pytest.MonkeyPatch) -> None:
    laptop.setenv("CCI_PYTHON", "/not/there/python")
    found = await _diagnose_locally()
    assert found["local.isolation"].status == "failed"
    assert "CCI_PYTHON" in found["local.isolation"].fix
    assert found["local.kernel"].message == "local.isolation must succeed first"


async def test_a_port_in_use_is_a_warning(laptop: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        laptop.setattr(machine, "_PORT", taken.getsockname()[1])
        found = (await _diagnose_locally())["local.port"]
    assert (found.status, found.fix) == ("warning", "cci serve --port 0")


async def test_an_old_framework_is_found(laptop: pytest.MonkeyPatch) -> None:
    installed = machine._find_version
    old = {"langchain-core": "0.3.9"}
    laptop.setattr(machine, "_find_version", lambda name: old.get(name) or installed(name))
    found = (await _diagnose_locally())["local.versions"]
    assert (found.status, found.fix) == ("warning", 'pip install "cci-plugins[langchain]"')
    assert found.message == "langchain-core 0.3.9 is installed, but <2,>=1.0 is required"


async def test_a_missing_extra_is_found(laptop: pytest.MonkeyPatch) -> None:
    laptop.setattr(machine, "_find_version", lambda _: "")
    found = await _diagnose_locally()
    assert found["local.versions"].fix == 'pip install "cci-plugins[local]"'
    assert found["local.isolation"].status == "skipped"
