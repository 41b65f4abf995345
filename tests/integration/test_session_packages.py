"""Packages that the application installs into a session, with real kernels."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from cci_plugins import CodeInterpreter, LocalSessionPool
from cci_plugins.errors import ConfigurationError, PoolUnavailableError
from cci_plugins.testing import FakeSessionPool

from ._wheels import write_wheel

if sys.platform != "linux":
    pytest.skip("these backends exist on Linux only", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
IMPORT = """import subprocess, sys
import cci_tiny
child = [sys.executable, '-c', 'import cci_tiny_base; print(cci_tiny_base.VALUE)']
print(cci_tiny.VALUE, subprocess.run(child, capture_output=True, text=True).stdout.strip())
"""
WRITE = "import cci_tiny; open(cci_tiny.__file__.replace('tiny.py', 'new.py'), 'w')"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the folders of other programs out of this module's folder of temporary files."""
    tmp_path_factory.getbasetemp()  # pytest's own folder outlives this module
    with (
        tempfile.TemporaryDirectory(prefix="cci-test-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        Path(folder).chmod(0o755)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    write_wheel(folder, "cci_tiny", "1.0", "cci-tiny-base>=1")
    write_wheel(folder, "cci_tiny_base", "1.0")
    write_wheel(folder, "cci_tiny_old", "1.0", "ipykernel<1")
    return folder


@pytest.fixture(scope="module", params=["bwrap", "landlock", "process"])
async def interpreter(
    request: pytest.FixtureRequest, index: Path
) -> AsyncIterator[CodeInterpreter]:
    if shutil.which("uv") is None and shutil.which("pip") is None:
        pytest.skip("neither uv nor pip is on PATH")
    if request.param == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    pool = LocalSessionPool(
        isolation=request.param, ready_sessions=0, preload=(), package_index=index
    )
    async with CodeInterpreter(pool) as interpreter:
        yield interpreter


def list_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("cci-packages-*/*/cci_tiny.py"))


@pytest.mark.quick("bwrap")
async def test_installed_packages_are_imported_read_only_and_given_again(
    interpreter: CodeInterpreter,
) -> None:
    before = list_folders()
    session = interpreter.session("packages")
    missing = await session.run_code("kept = 1\nimport cci_tiny")
    assert missing.error is not None
    assert missing.error.name == "ModuleNotFoundError"
    assert await session.install("cci-tiny>=1") == {"cci-tiny": "1.0", "cci-tiny-base": "1.0"}
    assert await session.install("cci-tiny", "ipykernel") == {}
    execution = await session.run_code(f"{IMPORT}print(kept)")
    assert execution.stdout.split() == ["cci_tiny", "cci_tiny_base", "1"], execution
    if execution.isolation != "process":
        refused = await session.run_code(WRITE)
        assert refused.error is not None
        assert refused.error.name in {"OSError", "PermissionError"}
    other = await interpreter.session("other").run_code("import cci_tiny")
    assert other.error is not None

    await session.restart()
    assert (await session.run_code(IMPORT)).stdout.split() == ["cci_tiny", "cci_tiny_base"]
    await session.run_code("import os; os._exit(1)")
    assert (await session.run_code(IMPORT)).stdout.split() == ["cci_tiny", "cci_tiny_base"]

    for specification, reason in (
        ("ipykernel<1", "the session has ipykernel"),
        ("cci-tiny-old", "cannot install 'cci-tiny-old'"),
        ("cci-absent", "cannot install 'cci-absent'"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            await session.install(specification)
    assert (await session.run_code(IMPORT)).status == "succeeded"
    await session.delete()
    assert list_folders() <= before


@pytest.mark.quick("bwrap")
@pytest.mark.parametrize(
    "specification",
    [
        "",
        "--index-url=http://x",
        "./folder",
        "a @ https://example.com/a.whl",
        "a; python_version>'3'",
    ],
)
async def test_what_is_not_a_name_and_a_version_is_refused(
    interpreter: CodeInterpreter, specification: str
) -> None:
    with pytest.raises(ConfigurationError, match="it is not the name of a package"):
        await interpreter.session("names").install(specification)


async def test_packages_of_the_pool_are_in_every_session(index: Path) -> None:
    pool = LocalSessionPool(
        ready_sessions=1, preload=(), packages=["cci-tiny-base"], package_index=index
    )
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("one")
        assert await session.install("cci-tiny") == {"cci-tiny": "1.0"}
        assert (await session.run_code(IMPORT)).stdout.split() == ["cci_tiny", "cci_tiny_base"]
        other = await interpreter.session("two").run_code(
            "import cci_tiny_base\nprint(cci_tiny_base.VALUE)"
        )
        assert other.stdout.strip() == "cci_tiny_base"
    assert list_folders() == set()


async def test_a_session_that_ends_before_its_first_run_gets_its_packages_again(
    index: Path,
) -> None:
    pool = LocalSessionPool(isolation="process", package_index=index, cooldown=1)
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        assert "cci-tiny" in await session.install("cci-tiny")
        with anyio.fail_after(30):
            while await pool.list_sessions():
                await anyio.sleep(0.05)
        execution = await session.run_code("import cci_tiny; cci_tiny.VALUE")
        assert (execution.text, execution.state) == ("'cci_tiny'", "lost")
        assert execution.execution_count == 1
        assert execution.notes == (
            (
                "the session was replaced because it was not used for 1 s; variables and files "
                "of earlier calls are gone"
            ),
            "packages installed again: cci-tiny",
        )
        await session.install("cci-tiny-base")
        execution = await session.run_code("import cci_tiny_base")
        assert (execution.state, execution.notes) == ("kept", ())


async def test_a_session_whose_python_cannot_start_gets_its_packages_again(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = LocalSessionPool(isolation="process", package_index=index)
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        await session.install("cci-tiny")
        with monkeypatch.context() as patch:
            patch.setattr("cci_plugins.pools.local.pool.launch", _fail)
            with pytest.raises(PoolUnavailableError):
                await session.run_code("1")
        execution = await session.run_code("import cci_tiny")
        assert execution.error is None
        assert "because its Python did not start" in execution.notes[0]


async def _fail(*_: object) -> None:
    raise PoolUnavailableError("no sandbox")


async def test_the_environment_names_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCI_POOL", "local")
    monkeypatch.setenv("CCI_PACKAGES", "cci-tiny ./folder")
    with pytest.raises(ConfigurationError, match=r"'\./folder': it is not the name of a package"):
        CodeInterpreter.from_env()


async def test_another_pool_refuses_packages_before_anything_runs() -> None:
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        with pytest.raises(ConfigurationError, match="cannot install packages"):
            await interpreter.session("fake").install("polars")


INSTALL = """%pip install cci-absent
!pip install cci-absent
import subprocess, sys
print(subprocess.run([sys.executable, "-m", "pip", "install", "cci-absent"]).returncode)
import pip
pip.main(["install", "cci-absent"])
"""
OFFERED = "the host can install {} by session.install(), packages= or CCI_PACKAGES"


async def test_code_that_installs_is_told_at_once_what_the_host_allows(index: Path) -> None:
    pool = LocalSessionPool(
        ready_sessions=0, preload=(), package_index=index, allowed_packages=["CCI_tiny_base"]
    )
    allows = f"{OFFERED}, and allows cci-tiny-base"
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("pip")
        execution = await session.run_code(INSTALL, timeout=30)
        assert execution.notes == (
            "pip cannot install packages here: the session has no network; "
            + allows.format("them"),
        )
        execution = await session.run_code("import cci_absent")
        assert execution.notes == (
            "cci_absent is not installed and cannot be: the session has no network; "
            + allows.format("it"),
        )
        with pytest.raises(ConfigurationError, match="does not allow cci-tiny"):
            await session.install("cci-tiny")
        await session.install("cci-tiny-base")
        execution = await session.run_code("%pip install -q cci.tiny.base 'ipykernel>=1'")
        assert "1.0" in "".join((*execution.notes, execution.stdout))
        assert "already" in "".join((*execution.notes, execution.stdout))
        variables = "import os; print(*(name for name in os.environ if 'INDEX' in name))"
        assert (await session.run_code(variables)).stdout.strip() == "PIP_NO_INDEX"


@pytest.mark.full
async def test_a_pool_with_a_network_lets_pip_look_for_packages() -> None:
    pool = LocalSessionPool(isolation="process", ready_sessions=0, preload=())
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("pip")
        execution = await session.run_code("import os, cci_absent")
        assert execution.notes == ()
        execution = await session.run_code("print('PIP_NO_INDEX' in os.environ)")
        assert execution.stdout.strip() == "False"
