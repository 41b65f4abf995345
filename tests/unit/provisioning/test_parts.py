"""The parts of provisioning that need no cloud: options, bodies, comparison, `.env`, words."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import tarfile
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cci_plugins.azure import api_versions
from cci_plugins.azure.failures import build_error, clean
from cci_plugins.common.settings import Settings
from cci_plugins.errors import AuthenticationError, ConfigurationError, ProvisioningError
from cci_plugins.provisioning import Azure, Options, Progress, Run, resources
from cci_plugins.provisioning.access import build_assignment_name
from cci_plugins.provisioning.deployment_run import matches
from cci_plugins.provisioning.dotenv import write_env
from cci_plugins.provisioning.image import build_context
from cci_plugins.provisioning.plan import list_resources

ROOT = Path(__file__).parents[3]
SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"


def options(**more: Any) -> Options:
    return Options(**({"subscription": SUBSCRIPTION, "resource_group": "group"} | more))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"subscription": "mine"}, "--subscription"),
        ({"resource_group": "a/b"}, "--resource-group"),
        ({"resource_group": "ends."}, "--resource-group"),
        ({"name": "Cci"}, "--name"),
        ({"name": "much-too-long"}, "--name"),
        ({"suffix": "x"}, "--suffix"),
        ({"suffix": "x-12"}, "--suffix"),
        ({"principal_id": "me"}, "--principal-id"),
        ({"cooldown": timedelta(seconds=299)}, "--cooldown"),
        ({"max_sessions": 601}, "--max-sessions"),
        ({"kind": "custom", "ready_sessions": 10}, "--ready-sessions"),
        ({"gateway": True}, "--kind custom"),
        ({"image": "x"}, "--kind custom"),
        ({"kind": "custom", "image": "x", "requirements": Path("y")}, "--image"),
    ],
    ids=str,
)
def test_options_that_azure_would_refuse_are_refused_by_name(
    more: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        options(**more)
    assert named in str(caught.value.hint)


def test_each_group_has_its_own_stable_suffix() -> None:
    assert options().suffix == options(resource_group="GROUP").suffix
    assert options().suffix != options(resource_group="other").suffix
    assert options(location="West US 2").location == "westus2"
    assert options(suffix="mine").suffix == "mine"


def test_bodies_are_reproducible_and_have_the_tags() -> None:
    given = options(kind="custom", gateway=True, tags={"team": "data", "cci-plugins": "fake"})
    first, second = list_resources(given, "image:1"), list_resources(given, "image:1")
    assert first == second
    for resource in first:
        assert resource.api_version == api_versions.OF_TYPE[resource.type]
        if "tags" in resource.body:
            assert resource.body["tags"] == {"team": "data", "cci-plugins": "cci"}
    names = {resource.name for resource in first}
    assert all(len(name) <= 63 for name in names)


def test_the_storage_account_has_no_public_access() -> None:
    properties = resources.build_storage_account(options()).body["properties"]
    assert properties == {
        "accessTier": "Hot",
        "allowCrossTenantReplication": False,
        "defaultToOAuthAuthentication": True,
        "allowBlobPublicAccess": False,
        "allowSharedKeyAccess": False,
        "minimumTlsVersion": "TLS1_2",
        "supportsHttpsTrafficOnly": True,
    }


def test_the_repr_of_a_body_hides_its_secrets() -> None:
    app = resources.build_gateway(
        options(kind="custom", gateway=True),
        "i",
        pool_endpoint="e",
        client_id="c",
        secrets={"a": "planted"},
    )
    assert "planted" not in repr(app)
    assert "planted" not in repr(Azure(credential="planted"))


def test_an_assignment_has_one_stable_name() -> None:
    assert build_assignment_name("/a", "r", "p") == build_assignment_name("/a", "r", "p")
    assert build_assignment_name("/a", "r", "p") != build_assignment_name("/a", "r", "q")
    assert build_assignment_name("/a", "r", "p") != build_assignment_name("/a", "p", "r")


@pytest.mark.parametrize(
    ("want", "found", "same"),
    [
        ({"a": 1}, {"A": 1.0, "b": 2}, True),
        ({"location": "eastus"}, {"location": "East US"}, True),
        ({"memory": "2.0Gi"}, {"memory": "2Gi"}, True),
        ({"memory": "2.5Gi"}, {"memory": "2Gi"}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": {"b": 1}}, {"a": None}, False),
        ({"a": []}, {}, False),
        ({"a": "x"}, {"a": "y"}, False),
    ],
)
def test_another_spelling_matches_and_another_value_does_not(
    want: object,
    found: object,
    same: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    assert matches(want, found) is same


def test_an_env_file_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# a comment\nexport A='old'\nB=\nC = same\n\nOTHER=1")
    values = {"A": "new", "B": "new", "C": "same", "D": "new"}
    assert write_env(path, values) == ["A"]
    assert path.read_text() == ("# a comment\nexport A='old'\nB=new\nC = same\n\nOTHER=1\nD=new\n")
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.stat().st_mtime_ns
    assert write_env(path, values) == ["A"]
    assert path.stat().st_mtime_ns == before
    assert write_env(path, values, replace=True) == []
    assert "\nA=new\n" in path.read_text()
    assert sorted(one.name for one in tmp_path.iterdir()) == [".env"]


def test_an_env_file_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    path.chmod(0o644)
    write_env(path, {"A": "1"})
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_env_file_is_written_completely_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_env(path, {"B": "2"})
    assert path.read_text() == "A=1\n"
    assert [one.name for one in tmp_path.iterdir()] == [".env"]


def test_the_settings_read_the_file_that_up_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cci_plugins.provisioning import Deployment

    monkeypatch.chdir(tmp_path)
    for kind, chosen in (("python", "platform"), ("custom", "custom")):
        deployment = Deployment(
            kind=kind,  # type: ignore[arg-type]
            pool_id="/subscriptions/s/pool",
            pool_endpoint="https://pool.example",
            mcp_endpoint="https://pool.example/mcp",
        )
        write_env(tmp_path / ".env", deployment.environment(), replace=True)
        settings = Settings.read()
        assert settings.chosen_pool == chosen
        assert settings.resource_id == "/subscriptions/s/pool"


def test_the_same_files_give_the_same_image(tmp_path: Path) -> None:
    first, again = build_context(None), build_context(None)
    assert (first.tag, first.archive) == (again.tag, again.archive)
    packages = tmp_path / "requirements.txt"
    packages.write_text("polars\nipykernel==7.4.0\n")
    other = build_context(packages)
    assert other.tag != first.tag
    with tarfile.open(fileobj=io.BytesIO(other.archive), mode="r:gz") as archive:
        member = archive.extractfile("infra/container/requirements.txt")
        assert member is not None
        assert member.read() == packages.read_bytes()
        names = archive.getnames()
        assert "src/cci_plugins/__init__.py" in names
        wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
        for asked in wheel["targets"]["wheel"]["force-include"]:
            assert any(name == asked or name.startswith(f"{asked}/") for name in names), asked
        assert {(one.uid, one.mtime) for one in archive} == {(0, 0)}
        assert not any(".env" in name or ".git" in name for name in archive.getnames())
    with pytest.raises(ConfigurationError, match="cannot be read"):
        build_context(tmp_path / "missing.txt")


def test_an_error_keeps_the_message_of_azure_without_secrets() -> None:
    details = [{"code": "Inner", "message": "because of sig=abc%2F and Bearer abc.def.ghi"}]
    body = {"error": {"code": "Outer", "message": "It failed.", "details": details}}
    error = build_error("step", 400, body)
    assert isinstance(error, ProvisioningError)
    assert (error.code, error.step) == ("Inner", "step")
    assert "because of sig=" not in str(error)
    assert "abc" not in str(error)
    assert isinstance(build_error("step", 401, None), AuthenticationError)
    assert str(build_error("step", 503, "not JSON")).startswith("step: Azure answered 503")
    assert len(clean("x" * 10_000)) < 700


async def _works(on_progress: Any) -> int:
    on_progress(Progress("one", "working", "begins"))
    await asyncio.sleep(0)
    on_progress(Progress("one", "done", "ends"))
    return 42


@pytest.mark.anyio
async def test_a_run_yields_its_progress_and_then_has_a_result() -> None:
    run = Run(_works)
    with pytest.raises(ProvisioningError, match="not finished"):
        _ = run.result
    assert [progress.message async for progress in run] == ["begins", "ends"]
    assert run.result == 42
    assert await Run(_works).finish() == 42


@pytest.mark.anyio
async def test_leaving_the_loop_stops_the_work() -> None:
    ended = asyncio.Event()

    async def endless(on_progress: Any) -> None:
        on_progress(Progress("one", "working", "begins"))
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    iterator = aiter(Run(endless))
    assert (await anext(iterator)).message == "begins"
    await iterator.aclose()  # type: ignore[attr-defined]
    assert ended.is_set()


@pytest.mark.anyio
async def test_iterating_raises_the_exception_of_the_work() -> None:
    async def breaks(on_progress: Any) -> None:
        on_progress(Progress("one", "working", "begins"))
        raise ProvisioningError("no", hint="yes")

    events = aiter(Run(breaks))
    assert (await anext(events)).message == "begins"
    with pytest.raises(ProvisioningError, match="no"):
        await anext(events)


def test_without_the_extra_the_error_names_the_package_to_install() -> None:
    code = (
        "import sys; sys.modules['azure.mgmt.appcontainers.aio'] = None\n"
        "from cci_plugins.cli import main; main(['provision', 'show', '-g', 'group'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert done.stderr == (
        "error: provisioning needs azure.mgmt.appcontainers.aio\n\n"
        'hint: pip install "cci-plugins[provision]"\n'
    )


def test_the_command_line_imports_azure_only_when_needed() -> None:
    code = (
        "import sys; from cci_plugins.cli import app\n"
        "print([name for name in sys.modules if name.startswith(('azure', 'aiohttp'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"
