"""Where packages of sessions come from, which are allowed, and what is left of them. No kernels."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cci_plugins import LocalSessionPool
from cci_plugins.errors import ConfigurationError

from ._wheels import serve_index, use_installer, write_wheel

if sys.platform != "linux":
    pytest.skip("these backends exist on Linux only", allow_module_level=True)

from cci_plugins.pools.local.packages.folder import PREFIX, PackageRoot, remove_leftovers
from cci_plugins.pools.local.packages.session_packages import PoolPackages, SessionPackages
from cci_plugins.pools.local.packages.source import build_source

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
PYTHON = Path(sys.executable)
ENDINGS = {
    "kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "exit": "import os; os._exit(0)",
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels and two locks: `lock.txt`, and `wrong.txt` with a wrong hash."""
    folder = tmp_path_factory.mktemp("wheels")
    first = write_wheel(folder, "cci_tiny", "1.0", "cci-tiny-base>=1")
    base = write_wheel(folder, "cci_tiny_base", "1.0")
    write_wheel(folder, "cci_tiny_base", "2.0")
    write_wheel(folder, "cci_tiny_other", "1.0")
    write_wheel(folder, "cci_tiny_old", "1.0", "ipykernel<1")
    for name, digest in (("lock.txt", base), ("wrong.txt", first)):
        (folder / name).write_text(
            "--index-url https://not-used.invalid/simple\n# by hand\n"
            f"cci_tiny==1.0 \\\n    --hash=sha256:{first}  # pinned\n"
            f'cci-tiny-base==1.0 ; python_version >= "3.8" \\\n    --hash=sha256:{digest}\n'
        )
    (folder / "short.txt").write_text(f"cci-tiny==1.0 --hash=sha256:{first}\n")
    return folder


@pytest.fixture(params=["pip", "uv"])
def installer(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    use_installer(request.param, folder, monkeypatch)


@asynccontextmanager
async def open_packages(
    index: Path | str | None, **options: object
) -> AsyncIterator[SessionPackages]:
    allowed, lock = options.get("allowed"), options.get("lock")
    packages = PoolPackages(build_source(PYTHON, index, allowed, lock), ())  # type: ignore[arg-type]
    await packages.start()
    try:
        yield packages.create_session()
    finally:
        await packages.close()


def list_modules() -> list[str]:
    found = Path(tempfile.gettempdir()).glob(f"{PREFIX}*/*/cci_*.py")
    return sorted(path.name for path in found)


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, for the test alone."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.mark.quick("uv")
@pytest.mark.usefixtures("installer")
async def test_what_cannot_be_installed_is_named(wheels: Path, folder: Path) -> None:
    async with open_packages(wheels) as session:
        for name in ("cci-tiny-old", "cci-absent"):
            with pytest.raises(ConfigurationError, match=f"cannot install '{name}': ."):
                await session.install([name])
        assert session.list_versions() == {}
    assert list_names(folder) == []


@pytest.mark.usefixtures("installer")
async def test_both_installers_add_what_is_missing_and_keep_what_is_there(
    wheels: Path, folder: Path
) -> None:
    async with open_packages(wheels) as session:
        assert await session.install(["cci-tiny-base<2"]) == {"cci-tiny-base": "1.0"}
        assert await session.install(["CCI.tiny >=1", "ipykernel"]) == {"cci-tiny": "1.0"}
        with pytest.raises(ConfigurationError, match=r"cannot install 'cci-tiny-base>=2': ."):
            await session.install(["cci-tiny-base>=2"])
        assert list_modules() == ["cci_tiny.py", "cci_tiny_base.py"]
        assert session.list_versions() == {"cci-tiny": "1.0", "cci-tiny-base": "1.0"}
    assert list_names(folder) == []


@pytest.mark.quick("uv")
@pytest.mark.usefixtures("installer", "folder")
async def test_a_lock_decides_versions_and_hashes(wheels: Path) -> None:
    async with open_packages(wheels, lock=wheels / "lock.txt") as session:
        versions = await session.install(["Cci_Tiny"])
        assert versions == {"cci-tiny": "1.0", "cci-tiny-base": "1.0"}
    async with open_packages(wheels, lock=wheels / "wrong.txt") as session:
        with pytest.raises(ConfigurationError, match=r"(?is)cci-tiny'.*hash"):
            await session.install(["cci-tiny"])
        assert session.list_versions() == {}
        assert list_modules() == []
    async with open_packages(wheels, lock=wheels / "short.txt") as session:
        with pytest.raises(ConfigurationError, match="the lock does not have cci-tiny-base"):
            await session.install(["cci-tiny"])


@pytest.mark.usefixtures("folder")
async def test_what_is_not_allowed_is_refused_before_anything_is_downloaded(wheels: Path) -> None:
    with serve_index(wheels) as index:
        allowed = ["Cci.Tiny_Base", "cci-tiny"]
        async with open_packages(index.url, allowed=allowed, lock=wheels / "lock.txt") as session:
            for name, reason in (
                ("cci-tiny-other", "the application does not allow cci-tiny-other"),
                ("cci-tiny-base==2.0", "the lock has cci-tiny-base 1.0"),
            ):
                with pytest.raises(ConfigurationError, match=reason) as caught:
                    await session.install(["cci-tiny", name])
                assert caught.value.hint
        async with open_packages(index.url, lock=wheels / "lock.txt") as session:
            with pytest.raises(ConfigurationError, match="the lock does not have cci-tiny-other"):
                await session.install(["cci-tiny-other"])
        async with open_packages(index.url, allowed=[]) as session:
            with pytest.raises(ConfigurationError, match="does not allow cci-tiny") as caught:
                await session.install(["cci-tiny"])
            assert "no package" in str(caught.value.hint)
        assert index.paths == []
    for options in (
        {"packages": ["cci-tiny"], "allowed_packages": ["cci-tiny-base"]},
        {"packages": ["cci-tiny-other"], "package_lock": wheels / "lock.txt"},
        {"allowed_packages": ["cci-tiny>=1"]},
        {"allowed_packages": "cci-tiny"},
        {"package_index": wheels / "missing"},
        {"package_lock": wheels / "missing.txt"},
    ):
        with pytest.raises(ConfigurationError):
            LocalSessionPool(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line",
    ["a==1", "a>=1 --hash=sha256:00", "a==1.* {}", "a @ https://a.example/a.whl {}", "./a.whl {}"],
)
def test_a_lock_names_one_version_and_its_hashes(line: str, tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text(line.format("--hash=sha256:" + "0" * 64))
    with pytest.raises(ConfigurationError, match="does not name one version and its hashes"):
        build_source(PYTHON, None, None, tmp_path / "lock.txt")


@pytest.mark.quick("uv")
@pytest.mark.usefixtures("installer", "folder")
async def test_only_the_index_of_the_application_is_asked(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serve_index(wheels) as index, serve_index(wheels) as other:
        (tmp_path / ".env").write_text(
            f"UV_INDEX_URL={other.url}\nUV_DEFAULT_INDEX={other.url}\nPIP_INDEX_URL={other.url}\n"
        )
        (tmp_path / "uv.toml").write_text(f'index-url = "{other.url}"\n')
        (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {other.url}\n")
        for name in ("UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
            monkeypatch.setenv(name, other.url)
        async with open_packages(index.url) as session:
            versions = await session.install(["cci-tiny"])
        assert versions == {"cci-tiny": "1.0", "cci-tiny-base": "2.0"}
        assert index.paths
        assert other.paths == []
        for name in ("UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("UV_DEFAULT_INDEX", other.url)
        monkeypatch.setenv("PIP_INDEX_URL", other.url)
        async with open_packages(None) as session:
            assert await session.install(["cci-tiny-other"]) == {"cci-tiny-other": "1.0"}
        assert other.paths


@pytest.mark.quick("uv")
@pytest.mark.usefixtures("installer")
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_app_that_is_killed_leaves_neither_packages_nor_an_installer(
    ending: str, wheels: Path, tmp_path: Path
) -> None:
    script = """
        import asyncio, sys
        from pathlib import Path
        from cci_plugins.pools.local.packages.session_packages import PoolPackages
        from cci_plugins.pools.local.packages.source import build_source

        async def main():
            python = Path(sys.executable)
            installed = PoolPackages(build_source(python, sys.argv[1], None, None), ["cci-tiny"])
            await installed.start()
            hanging = PoolPackages(build_source(python, sys.argv[2], None, None), ())
            await hanging.start()
            task = asyncio.create_task(hanging.create_session().install(["cci-tiny"]))
            print("begun", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            {ending}

        asyncio.run(main())
    """
    place = tmp_path / "tmp"
    place.mkdir()
    with serve_index(wheels, hangs=True) as index:
        source = textwrap.dedent(script).format(ending=ENDINGS[ending])
        app = subprocess.Popen(
            [sys.executable, "-c", source, str(wheels), index.url],
            env={**os.environ, "TMPDIR": str(place)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with app:
            assert app.stdout is not None
            assert app.stdout.readline() == "begun\n"
            assert index.asked.wait(60)
            assert list(place.glob("*/*/cci_tiny.py"))
            app.communicate("\n", timeout=60)
        assert app.returncode == (-signal.SIGKILL if ending == "kill" else 0)
        wait_until(lambda: not list(place.iterdir()) and not list_processes(place))


def list_processes(folder: Path) -> list[str]:
    """List the commands of processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


def wait_until(is_true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.05)


async def test_the_next_start_removes_what_a_killed_guard_left(folder: Path) -> None:
    old = time.time() - 3600
    for name in ("left", "new"):
        path = folder / f"{PREFIX}{name}" / "kernel"
        path.mkdir(parents=True)
        (path / "module.py").touch()
    os.utime(folder / f"{PREFIX}left", (old, old))
    living = PackageRoot()
    await living.start(sys.executable)
    own = living.create()
    os.utime(own.parent, (old, old))
    try:
        remove_leftovers()
        assert own.exists()
        assert list_names(folder) == sorted([f"{PREFIX}new", own.parent.name])
    finally:
        await living.close()
    assert list_names(folder) == [f"{PREFIX}new"]
