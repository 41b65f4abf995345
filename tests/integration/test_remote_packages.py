"""Packages for sessions of the cci-plugins server: this machine downloads them and sends wheels."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from cci_plugins import CodeInterpreter, LocalSessionPool, Session
from cci_plugins.errors import CodeInterpreterError, ConfigurationError
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.base import SessionPool
from cci_plugins.pools.local.packages import session_packages
from cci_plugins.pools.local.packages.download import download
from cci_plugins.pools.local.packages.python_info import describe_python, list_target_options
from cci_plugins.pools.local.packages.source import build_source
from cci_plugins.pools.package_exchange import PackageExchange

from ._emulated import Emulated, emulated
from ._server import KEY, serving
from ._wheels import find_installers, use_installer, write_wheel

pytest.importorskip("mcp")
if sys.platform != "linux":
    pytest.skip("the backends exist on Linux only", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
IMPORT = "import cci_tiny, cci_tiny_base\nprint(cci_tiny.VALUE, cci_tiny_base.VALUE)"
SECRET = b"a secret of the tests, 32 bytes or more"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    write_wheel(folder, "cci_tiny", "1.0", "cci-tiny-base>=1")
    write_wheel(folder, "cci_tiny_base", "1.0")
    return folder


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join([*find_installers(), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)


@asynccontextmanager
async def container(index: Path | None) -> AsyncIterator[tuple[SessionPool, Emulated]]:
    """Emulate a custom pool of our image, and yield its client and the emulator."""
    local = LocalSessionPool(preload=(), ready_sessions=0)
    async with emulated(local, kind="custom", max_sessions=9) as azure:
        yield azure.client(package_index=index), azure


@asynccontextmanager
async def gateway(index: Path) -> AsyncIterator[tuple[SessionPool, Emulated]]:
    """Put a gateway before such a pool. It could not download anything itself."""
    from cci_plugins.server import SignedEnvironments

    async with container(None) as (pool, azure):
        options: dict[str, Any] = {"environments": SignedEnvironments(SECRET), "rest": False}
        async with serving(pool, runs_per_minute=20, **options) as url:
            yield PlatformSessionPool(url, key=KEY, package_index=index), azure


@asynccontextmanager
async def server(index: Path) -> AsyncIterator[tuple[SessionPool, None]]:
    """Serve an embedded pool."""
    async with serving(LocalSessionPool(preload=(), ready_sessions=0)) as url:
        yield PlatformSessionPool(url, key=KEY, package_index=index), None


async def check_session(session: Session) -> None:
    missing = await session.run_code("kept = 1\nimport cci_tiny")
    assert str(missing.error).startswith("ErrorInfo(name='ModuleNotFoundError'")
    assert await session.install("cci-tiny>=1") == {"cci-tiny": "1.0", "cci-tiny-base": "1.0"}
    assert await session.install("cci-tiny", "ipykernel") == {}
    execution = await session.run_code(f"{IMPORT}\nprint(kept)")
    assert execution.stdout.split() == ["cci_tiny", "cci_tiny_base", "1"], execution
    await session.restart()
    assert (await session.run_code(IMPORT)).stdout.split() == ["cci_tiny", "cci_tiny_base"]
    for specification, reason in (
        ("ipykernel<1", "the session has ipykernel"),
        ("a @ https://example.com/a.whl", "it is not the name of a package"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            await session.install(specification)


@pytest.mark.usefixtures("installer")
@pytest.mark.quick("gateway")
@pytest.mark.parametrize("make", [gateway, server, container], ids=["gateway", "server", "custom"])
async def test_a_session_of_our_server_gets_wheels_that_this_machine_downloaded(
    make: Any, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cci_plugins.core.remote_packages.PART_BYTES", 300)
    with anyio.fail_after(110):
        async with make(index) as (pool, azure), CodeInterpreter(pool) as interpreter:
            session = interpreter.session("a")
            await check_session(session)
            other = await interpreter.session("b").run_code("import cci_tiny")
            assert other.error is not None
            if azure is not None:  # its cooldown is over, and the replacement gets them again
                unused = interpreter.session("c")
                assert set(await unused.install("cci-tiny")) == {"cci-tiny", "cci-tiny-base"}
                for identifier in list(azure.emulator._last_used):
                    await azure.emulator.drop_session(identifier)
                for one in (session, unused):
                    execution = await one.run_code(IMPORT)
                    assert execution.stdout.split() == ["cci_tiny", "cci_tiny_base"], execution
                    assert execution.state == "lost"
                    assert (
                        "was replaced" in execution.notes[0] or "replaced the" in execution.notes[0]
                    )
                    assert execution.notes[-1].startswith("packages installed again: cci-tiny")


@pytest.mark.quick("platform")
@pytest.mark.parametrize("kind", ["platform", "managed"])
async def test_a_pool_without_our_server_refuses_packages_before_anything(
    kind: str, index: Path
) -> None:
    local = LocalSessionPool(preload=(), ready_sessions=0)
    with anyio.fail_after(110):
        async with emulated(local, kind=kind, max_sessions=9) as azure:
            async with CodeInterpreter(azure.client(package_index=index)) as interpreter:
                with pytest.raises(ConfigurationError, match="cannot install packages into a sess"):
                    await interpreter.session("a").install("cci-tiny")


async def test_an_older_server_refuses_packages_before_anything(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cci_plugins.server.mcp.held_runs.PACKAGES_KEY", "something_else")
    with anyio.fail_after(110):
        for make in (container, server):
            async with make(index) as (pool, _), CodeInterpreter(pool) as interpreter:
                with pytest.raises(ConfigurationError, match="cannot install packages into a sess"):
                    await interpreter.session("a").install("cci-tiny")


def build_wheel(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return archive.getvalue()


class Sender:
    """Sends one upload to a session as a foreign client could."""

    def __init__(self, pool: PackageExchange) -> None:
        self.pool = pool
        self.upload = ""

    async def start(self) -> None:
        self.upload = str((await self.pool.exchange_packages("session", {}))["upload"])

    async def send(self, name: str, content: bytes, at: int = 0) -> None:
        data = base64.b64encode(content).decode()
        message = {"upload": self.upload, "name": name, "at": at, "data": data}
        assert await self.pool.exchange_packages("session", message) == {}

    async def send_all(self, name: str, content: bytes, changes: dict[str, Any]) -> None:
        await self.send(name, content)
        await self.finish(name, content, **changes)

    async def finish(self, name: str, content: bytes, **changes: Any) -> dict[str, Any]:
        wheel = {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        message = {"upload": self.upload, "wheels": [wheel | changes]}
        return dict(await self.pool.exchange_packages("session", message))


NAME = "cci_sent-1.0-py3-none-any.whl"
METADATA = b"Metadata-Version: 2\nName: cci-sent\nVersion: 1.0\n"
INFO = {
    "cci_sent.py": b"VALUE = 1\n",
    "cci_sent-1.0.data/purelib/cci_lib.py": b"VALUE = 2\n",
    "cci_sent-1.0.data/scripts/cci_script": b"no",
    "cci_sent-1.0.dist-info/METADATA": METADATA,
}


# tests/unit/pools/local/packages/test_received.py has every way in which a wheel may be wrong
async def test_only_whole_wheels_of_the_list_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_packages, "MAX_SESSION_BYTES", 100_000)
    good = build_wheel(INFO)
    refused = [
        (good, {"sha256": "0" * 64}, "has changed on the way"),
        (build_wheel({"a.py": b""}), {}, "1 wheels have the metadata of 0 packages"),
        (bytes(200_000), {}, "may have 100,000 bytes in all"),
    ]
    async with LocalSessionPool(preload=(), ready_sessions=0) as pool:
        sender = Sender(pool)
        with pytest.raises(CodeInterpreterError, match="the session was replaced"):
            await sender.send(NAME, good)
        await sender.start()
        for content, changes, reason in refused:
            with pytest.raises(ConfigurationError, match=reason):
                await sender.send_all(NAME, content, changes)
            await sender.start()
        with pytest.raises(ConfigurationError, match="does not follow 0 bytes"):
            await sender.send(NAME, good, at=5)
        with pytest.raises(ValidationError):
            await pool.exchange_packages("session", {"upload": 1})
        for part, at in ((good[:10], 0), (good[:10], 0), (good[10:], 10)):
            await sender.send(NAME, part, at)
        for _ in range(2):  # an answer may be lost
            assert await sender.finish(NAME, good) == {"versions": {"cci-sent": "1.0"}}
        code = "import cci_sent, cci_lib, importlib.util\nimportlib.util.find_spec('cci_script')"
        execution = await pool.execute("session", code, timeout=timedelta(seconds=60))
        assert execution.error is None, execution
        await sender.start()
        changed = {name.replace("1.0", "2.0"): text for name, text in INFO.items()}
        changed["cci_sent-2.0.dist-info/METADATA"] = METADATA.replace(b"1.0", b"2.0")
        newer, content = NAME.replace("1.0", "2.0"), build_wheel(changed)
        await sender.send(newer, content)
        with pytest.raises(ConfigurationError, match=r"the session has cci-sent 1\.0"):
            await sender.finish(newer, content)


async def test_uv_downloads_wheels_for_a_python_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_installer("uv", tmp_path, monkeypatch)
    index, folder = tmp_path / "index", tmp_path / "download"
    index.mkdir()
    folder.mkdir()
    tags = {"cp312-cp312-manylinux_2_28_aarch64": "3.12", "cp311-cp311-manylinux_2_17_x86_64": "no"}
    for tag, value in tags.items():
        write_wheel(index, "cci_plat", "1.0", source=f"VALUE = {value!r}\n")
        (index / "cci_plat-1.0-py3-none-any.whl").rename(index / f"cci_plat-1.0-{tag}.whl")
    python = Path(sys.executable)
    source = build_source(python, index, None, None)
    described = (await describe_python(python)).model_copy(
        update={"version": "3.12.1", "machine": "aarch64", "libc": ["glibc", "2.36"]}
    )
    source = replace(source, target=list_target_options(described))
    target = await download(source, source.check(["cci-plat"]), {}, folder)
    assert (target / "cci_plat.py").read_text() == "VALUE = '3.12'\n"
