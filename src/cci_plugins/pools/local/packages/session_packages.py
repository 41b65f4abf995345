"""The packages of one session, which each of its kernels is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio

from cci_plugins.models import Execution
from cci_plugins.pools.base import Capabilities

from .download import download, list_installed, list_versions, select_missing
from .folder import PackageFolder, PackageRoot
from .notes import add_package_note
from .source import PackageSource


class PoolPackages:
    """The packages of every session of a pool, and the folders for all of them.

    Args:
        source: Where packages come from.
        specifications: Packages to install into each session.
    """

    def __init__(self, source: PackageSource, specifications: Sequence[str]) -> None:
        self._source = source
        self._specifications = tuple(specifications)
        if specifications:
            source.check(self._specifications)
        self._root = PackageRoot()
        self._base = SessionPackages(source, self._root)

    async def start(self) -> None:
        """Create the folder of the packages, and download those of every session."""
        await self._root.start(await self._source.find_python())
        try:
            if self._specifications:
                await self._base.install(self._specifications)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._root.close()
            raise

    def create_folder(self) -> PackageFolder:
        """Create the folder for one kernel."""
        return PackageFolder(self._root)

    def create_session(self) -> SessionPackages:
        """Create the packages of one session."""
        return SessionPackages(self._source, self._root, self._base)

    async def close(self) -> None:
        """Remove every folder."""
        await self._root.close()


class SessionPackages:
    """The host's copy of a session's packages.

    Args:
        source: Where they come from.
        root: The parent of its folder.
        base: Packages of every session of the pool.

    Attributes:
        version: Number of changes so far. A kernel with an older one is filled again.
    """

    def __init__(
        self, source: PackageSource, root: PackageRoot, base: SessionPackages | None = None
    ) -> None:
        self._source = source
        self._root = root
        self._base = base
        self.version: int = 0 if base is None else base.version
        self._folder: PackageFolder | None = None
        self._versions: dict[str, str] = {}

    async def install(self, specifications: Sequence[str]) -> Mapping[str, str]:
        """Download packages, whole or not at all. Return the new versions by name.

        Raises:
            ConfigurationError: A specification is invalid, or the session has another version.
        """
        requirements = self._source.check(specifications)
        present = await self._list_present()
        missing = select_missing(requirements, present)
        if not missing:
            return {}
        staging = PackageFolder(self._root)
        try:
            target = await download(self._source, missing, present, staging.path)
            versions = await anyio.to_thread.run_sync(list_versions, target)
            if self._folder is None:
                self._folder = PackageFolder(self._root)
            await anyio.to_thread.run_sync(self._folder.add, target)
        finally:
            with anyio.CancelScope(shield=True):
                await staging.close()
        self._versions |= versions
        self.version += 1
        return versions

    async def add_note(
        self, execution: Execution, code: str, capabilities: Capabilities
    ) -> Execution:
        """Return the execution, with a note if it could not install or import a package."""
        return await add_package_note(
            execution, code, capabilities, self._source.describe(), self._list_present
        )

    async def _list_present(self) -> Mapping[str, str]:
        return {**await list_installed(self._source.python), **self.list_versions()}

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
