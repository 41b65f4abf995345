"""The packages of one session, which each of its kernels is given."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio

from .download import check_specifications, download, list_installed, select_missing
from .folder import PackageFolder


class SessionPackages:
    """The host's copy of a session's packages.

    Args:
        base: Packages of every session of the pool.

    Attributes:
        version: Number of changes so far. A kernel with an older one is filled again.
    """

    def __init__(self, base: SessionPackages | None = None) -> None:
        self._base = base
        self.version: int = 0 if base is None else base.version
        self._folder: PackageFolder | None = None
        self._versions: dict[str, str] = {}

    async def install(
        self, python: Path, specifications: Sequence[str], index: str | None
    ) -> Mapping[str, str]:
        """Download packages, whole or not at all. Return the new versions by name.

        Raises:
            ConfigurationError: A specification is invalid, or the session has another version.
        """
        requirements = check_specifications(specifications)
        present = {**await list_installed(python), **self.list_versions()}
        missing = select_missing(requirements, present)
        if not missing:
            return {}
        with tempfile.TemporaryDirectory(prefix="cci-") as staging:
            versions = await download(python, missing, present, Path(staging), index)
            if self._folder is None:
                self._folder = PackageFolder()
            await anyio.to_thread.run_sync(self._folder.add, Path(staging))
        self._versions |= versions
        self.version += 1
        return versions

    def list_versions(self) -> dict[str, str]:
        """Return the versions by name, also those of every session."""
        base = {} if self._base is None else self._base.list_versions()
        return base | self._versions

    async def fill(self, folder: PackageFolder) -> None:
        """Copy the packages into the folder of a kernel."""
        if self._base is not None:
            await self._base.fill(folder)
        if self._folder is not None:
            await anyio.to_thread.run_sync(folder.add, self._folder.path)

    async def close(self) -> None:
        """Remove the host's copy."""
        if self._folder is not None:
            await self._folder.close()
