"""Packages for sessions of other machines: this machine downloads them, and sends wheels.

The session's server describes its Python (`pools/package_exchange.py`). Its answer is not trusted:
names, versions and platforms are checked before they reach the installer.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import Distribution, distributions
from pathlib import Path

import anyio
from packaging.utils import canonicalize_name, is_normalized_name
from packaging.version import InvalidVersion, Version

from cci_plugins.common.async_files import open_file
from cci_plugins.pools.local.packages.download import download, select_missing
from cci_plugins.pools.local.packages.python_info import describe_python, list_target_options
from cci_plugins.pools.local.packages.source import build_source
from cci_plugins.pools.package_exchange import (
    SessionPython,
    Versions,
    WheelFile,
    WheelList,
    WheelPart,
)
from cci_plugins.pools.package_pools import PART_BYTES, RemotePackages

_COMPRESSION_LEVEL = 1  # packages are sent once, and most of their bytes are compiled code


async def install_remotely(
    pool: RemotePackages, session_id: str, packages: Sequence[str]
) -> tuple[str | None, Mapping[str, str]]:
    """Install packages into a session of another machine.

    Returns:
        The instance that got them, if the server states it, and the new versions by name.

    Raises:
        ConfigurationError: The pool cannot do it, or not with these packages.
        PoolUnavailableError: The download took too long.
        SessionLostError: The session was replaced meanwhile. Nothing was installed.
    """
    options = pool.package_options
    python = Path(sys.executable)
    source = build_source(python, options.index, options.allowed, options.lock)
    requirements = source.check(packages)
    answer = await pool.exchange_packages(session_id, {})
    session = SessionPython.load(answer, "description of a session's Python")
    missing = select_missing(requirements, installed := _check_versions(session.installed))
    if not missing:
        return session.instance or None, {}
    if await describe_python(python) != session.python:
        source = replace(source, target=list_target_options(session.python))
    with tempfile.TemporaryDirectory(prefix="cci-wheels-") as name:
        folders = [Path(name, "download"), Path(name, "wheels")]
        for folder in folders:
            await anyio.Path(folder).mkdir()
        target = await download(source, missing, installed, folders[0])
        wheels = await anyio.to_thread.run_sync(write_wheels, target, folders[1])
        versions = await _send(pool, session_id, session.upload, wheels)
    return session.instance or None, versions


def _check_versions(installed: Mapping[str, str]) -> dict[str, str]:
    """Return what are names and versions. The installer gets them as lines of a file."""
    found: dict[str, str] = {}
    for name, version in installed.items():
        with suppress(InvalidVersion):
            if is_normalized_name(canonicalize_name(name)):
                found[canonicalize_name(name)] = str(Version(version))
    return found


async def _send(
    pool: RemotePackages, session_id: str, upload: str, wheels: Sequence[Path]
) -> Mapping[str, str]:
    """Send every wheel in parts, and then their list."""
    files = []
    for path in wheels:
        at, digest = 0, hashlib.sha256()
        async with open_file(path, "rb") as file:
            while content := await file.read(PART_BYTES):
                data = base64.b64encode(content).decode("ascii")
                part = WheelPart(upload=upload, name=path.name, at=at, data=data)
                await pool.exchange_packages(session_id, part.model_dump(by_alias=True))
                at += len(content)
                digest.update(content)
        files.append(WheelFile(name=path.name, size=at, sha256=digest.hexdigest()))
    if not files:
        return {}
    message = WheelList(upload=upload, wheels=files).model_dump(by_alias=True)
    answer = await pool.exchange_packages(session_id, message)
    return Versions.load(answer, "list of versions").versions


def write_wheels(packages: Path, folder: Path) -> list[Path]:
    """Write each distribution in a folder of packages as a wheel, by its own record of files.

    An installer unpacks what it downloads. So the wheels have no scripts and no data files.

    Args:
        packages: The folder.
        folder: Where to write the wheels.
    """
    written = []
    for distribution in distributions(path=[str(packages)]):
        path = folder / _build_wheel_name(distribution)
        with zipfile.ZipFile(
            path, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION_LEVEL
        ) as wheel:
            for file in _iter_files(distribution, packages):
                wheel.write(file, file.relative_to(packages))
        written.append(path)
    return written


def _build_wheel_name(distribution: Distribution) -> str:
    name = canonicalize_name(distribution.metadata["Name"]).replace("-", "_")
    lines = (distribution.read_text("WHEEL") or "").splitlines()
    tags = [line.partition(":")[2].strip() for line in lines if line.startswith("Tag:")]
    return f"{name}-{Version(distribution.version)}-{tags[0] if tags else 'py3-none-any'}.whl"


def _iter_files(distribution: Distribution, packages: Path) -> Iterator[Path]:
    """Yield the recorded files that lie in the folder. Scripts may lie elsewhere."""
    root = packages.resolve()
    for entry in distribution.files or ():
        path = Path(str(entry.locate())).resolve()
        if path.is_relative_to(root) and path.is_file():
            yield packages / path.relative_to(root)
