"""The packages of one session, which each of its kernels is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from cci_plugins.common.threads import run_in_thread
from cci_plugins.errors import ConfigurationError
from cci_plugins.models import Execution
from cci_plugins.pools.base import Capabilities

from .download import download, list_installed, list_versions, select_missing
from .folder import PackageFolder, PackageRoot
from .notes import add_package_note
from .python_info import describe_python
from .received import (
    MAX_SESSION_BYTES,
    MAX_TOTAL_BYTES,
    ByteBudget,
    WheelUpload,
    build_unknown_upload_error,
)
from .source import PackageSource

if TYPE_CHECKING:
    from cci_plugins.pools.package_exchange import SessionPython, WheelList, WheelPart


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
        self._total = ByteBudget(MAX_TOTAL_BYTES, "all sessions")

    @property
    def has_specifications(self) -> bool:
        """Whether packages are downloaded when the pool starts."""
        return bool(self._specifications)

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
        return SessionPackages(self._source, self._root, self._base, total=self._total)

    async def close(self) -> None:
        """Remove every folder."""
        await self._root.close()


class SessionPackages:
    """The host's copy of a session's packages.

    Args:
        source: Where they come from.
        root: The parent of its folder.
        base: Packages of every session of the pool.
        total: Bytes that hosts may send to all sessions.

    Attributes:
        version: Number of changes so far. A kernel with an older one is filled again.
    """

    def __init__(
        self,
        source: PackageSource,
        root: PackageRoot,
        base: SessionPackages | None = None,
        *,
        total: ByteBudget | None = None,
    ) -> None:
        self._source = source
        self._root = root
        self._base = base
        self.version: int = 0 if base is None else base.version
        self._folder: PackageFolder | None = None
        self._versions: dict[str, str] = {}
        self._budget = ByteBudget(MAX_SESSION_BYTES, "a session", total)
        self._upload: WheelUpload | None = None
        self._upload_folder: PackageFolder | None = None
        self._installed_upload: tuple[str, Mapping[str, str]] = ("", {})

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
            versions = await run_in_thread(list_versions, target)
            await self._add(target, versions)
        finally:
            with anyio.CancelScope(shield=True):
                await staging.close()
        return versions

    async def _add(self, target: Path, versions: Mapping[str, str]) -> None:
        if self._folder is None:
            self._folder = PackageFolder(self._root)
        await run_in_thread(self._folder.add, target)
        self._versions |= versions
        self.version += 1

    @property
    def has_own(self) -> bool:
        """Whether packages were installed into this session alone."""
        return bool(self._versions)

    async def answer(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a message of `PackageExchange`, one at a time.

        Raises:
            SessionLostError: The session does not have the upload.
            ConfigurationError: The packages cannot be stored, or would change what is present.
            ValidationError: The message is malformed.
        """
        from cci_plugins.pools.package_exchange import WheelList, WheelPart  # noqa: PLC0415

        try:
            if not message:
                return (await self._start_upload()).model_dump(by_alias=True)
            if "wheels" in message:
                wheels = WheelList.model_validate(message)
                return {"versions": dict(await self._install_upload(wheels))}
            await self._add_part(WheelPart.model_validate(message))
        except OSError as error:
            raise ConfigurationError(
                f"the packages cannot be stored: {error.strerror}",
                hint="give the server more space for temporary files (TMPDIR)",
            ) from error
        return {}

    async def _start_upload(self) -> SessionPython:
        """Drop an earlier upload, and start one. Return its name, and what the session has."""
        from cci_plugins.pools.package_exchange import SessionPython  # noqa: PLC0415

        python = await describe_python(self._source.python)
        present = await self._list_present()
        await self._drop_upload()
        self._upload_folder = folder = PackageFolder(self._root)
        folder.path.chmod(0o700)
        self._upload = upload = WheelUpload(folder.path, self._budget)
        return SessionPython(upload=upload.name, python=python, installed=dict(present))

    async def _add_part(self, part: WheelPart) -> None:
        """Write a part of a wheel of the upload.

        Raises:
            SessionLostError: The session does not have this upload.
            ConfigurationError: The part does not fit, or is too large.
        """
        if self._upload is None or self._upload.name != part.upload:
            raise build_unknown_upload_error()
        await run_in_thread(self._upload.add, part)

    async def _install_upload(self, wheels: WheelList) -> Mapping[str, str]:
        """Install the wheels of the upload, all or none. Return the new versions by name.

        Raises:
            SessionLostError: The session does not have this upload.
            ConfigurationError: They are not those of the list, are not allowed, or would change
                what the session has.
        """
        if self._installed_upload[0] == wheels.upload:
            return self._installed_upload[1]
        upload = self._upload
        if upload is None or upload.name != wheels.upload:
            raise build_unknown_upload_error()
        kept = self._budget.used - upload.size
        staging = PackageFolder(self._root)
        try:
            await run_in_thread(upload.check, wheels.wheels)
            await run_in_thread(upload.unpack, staging.path)
            found = await run_in_thread(list_versions, staging.path)
            if len(found) != len(wheels.wheels):
                raise ConfigurationError(
                    f"{len(wheels.wheels)} wheels have the metadata of {len(found)} packages",
                    hint="send one wheel for each package",
                )
            present = await self._list_present()
            for name, version in found.items():
                select_missing(self._source.check([f"{name}=={version}"]), present)
            versions = {name: found[name] for name in found if name not in present}
            await self._add(staging.path, versions)
            kept = self._budget.used - upload.size
        finally:
            with anyio.CancelScope(shield=True):
                await staging.close()
                await self._drop_upload(kept)
        self._installed_upload = (wheels.upload, versions)
        return versions

    async def _drop_upload(self, kept: int | None = None) -> None:
        """Remove the upload, and keep only so many bytes of the session's budget."""
        upload, self._upload = self._upload, None
        folder, self._upload_folder = self._upload_folder, None
        if upload is not None:
            kept = self._budget.used - upload.size if kept is None else kept
            self._budget.release(self._budget.used - kept)
        if folder is not None:
            await folder.close()

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
            await run_in_thread(folder.add, self._folder.path)

    async def close(self) -> None:
        """Remove the host's copy."""
        await self._drop_upload()
        if self._folder is not None:
            await self._folder.close()
        self._budget.release()
