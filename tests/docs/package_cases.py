"""Cases of the troubleshooting page: packages of sessions."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path

import anyio
import pytest

from cci_plugins import LocalSessionPool, ToolOptions
from cci_plugins.pools.local.packages import download, session_packages
from cci_plugins.pools.local.packages.folder import PackageRoot
from cci_plugins.pools.local.packages.python_info import list_target_options
from cci_plugins.pools.local.packages.received import ByteBudget
from cci_plugins.pools.local.packages.source import PackageSource, build_source
from cci_plugins.pools.package_exchange import PythonInfo
from cci_plugins.sync import CodeInterpreter
from cci_plugins.testing import FakeSessionPool
from cci_plugins.tools.options import check_single_tool

from .cases import happens

HASH = "--hash=sha256:" + "0" * 64


@happens("cannot install ...: it is not the name of a package")
def _(*_: object) -> object:
    return LocalSessionPool(packages=["./folder"])


@happens("cannot install ...: the session has ...")
def _(*_: object) -> object:
    requirements = PackageSource(Path(sys.executable)).check(["ipykernel<1"])
    return download.select_missing(requirements, {"ipykernel": "7.0"})


@happens("cannot install ...: the application does not allow ...")
def _(*_: object) -> object:
    return LocalSessionPool(packages=["polars"], allowed_packages=["duckdb"])


@happens("cannot install ...: the lock does not have ...")
def _(*_: object) -> object:
    return _read_lock(f"duckdb==1.0 {HASH}").check(["polars"])


@happens("cannot install ...: the lock has ...")
def _(*_: object) -> object:
    return _read_lock(f"duckdb==1.0 {HASH}").check(["duckdb>=2"])


@happens("the package lock ... has ..., which does not name one version and its hashes")
def _(*_: object) -> object:
    return _read_lock("duckdb>=1")


@happens("installing packages into this interpreter needs uv, which is not on PATH")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(download.shutil, "which", lambda _: None)
    source = PackageSource(Path("/usr/bin/another-python"))
    with tempfile.TemporaryDirectory() as folder:
        requirements = source.check(["duckdb"])
        return anyio.run(download.download, source, requirements, {}, Path(folder))


@happens("the pool ... cannot install packages into a session")
def _(*_: object) -> object:
    with CodeInterpreter(FakeSessionPool()) as interpreter:
        return interpreter.session("packages").install("duckdb")


@happens("install_packages is a second tool")
def _(*_: object) -> object:
    return check_single_tool(ToolOptions(install_packages=True))


@happens("no packages can be downloaded for ... on ...")
def _(*_: object) -> object:
    described = {
        "implementation": "cpython",
        "version": "3.14.0",
        "system": "linux",
        "machine": "x86_64",
        "libc": ["glibc", "2.36"],
        "freeThreaded": True,
    }
    return list_target_options(PythonInfo.model_validate(described))


@happens("packages of ... may have ... bytes in all")
def _(*_: object) -> object:
    return ByteBudget(1000, "a session").take(1001)


@happens("the packages cannot be stored: ...")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    def refuse(_: object) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(session_packages, "PackageFolder", refuse)
    return anyio.run(_exchange, {})


@happens("the session was replaced while packages were sent, so nothing was installed")
def _(*_: object) -> object:
    return anyio.run(_exchange, {"upload": "an-earlier-one", "wheels": []})


async def _exchange(message: dict[str, object]) -> object:
    source = PackageSource(Path(sys.executable))
    packages = session_packages.SessionPackages(source, PackageRoot())
    wheel = {"name": "duckdb-1-py3-none-any.whl", "size": 1, "sha256": ""}
    return await packages.answer(message | {"wheels": [wheel]} if message else {})


def _read_lock(text: str) -> PackageSource:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lock.txt")
        path.write_text(text, encoding="utf-8")
        return build_source(Path(sys.executable), None, None, path)
