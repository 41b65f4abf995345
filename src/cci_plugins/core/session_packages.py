"""Packages of a session, as every session has them. `Session` inherits from this."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress

from cci_plugins.errors import CodeInterpreterError, ConfigurationError
from cci_plugins.pools.base import SessionPool, check_packages_support
from cci_plugins.pools.package_pools import RemotePackages

from .background_run import BackgroundSession


class PackageSession(BackgroundSession):
    """A session into which the application can install packages.

    Attributes:
        _packages: Specifications that it installed.
    """

    _packages: tuple[str, ...] = ()

    @abstractmethod
    def _refuse_nested_run(self) -> None: ...

    async def install(self, *packages: str) -> Mapping[str, str]:
        """Install packages for the code of this session. The code needs no network for it.

        This machine downloads wheels for the session's interpreter. The next run can import them.
        They are given again after a restart, and are gone after `delete`.

        Args:
            packages: Names with optional extras and versions, such as `duckdb>=1`.

        Returns:
            The new versions by name. Empty if all packages were there.

        Raises:
            ConfigurationError: The pool cannot install packages. Or a package does not exist, or
                would change one that the session has. Or a tool of this session's own run made
                the call. Nothing has changed.
            PoolUnavailableError: The download took too long.

        Example:
            ```python
            from cci_plugins.errors import ConfigurationError

            session = interpreter.session("alice")
            try:
                await session.install("tomli-w>=1")
            except ConfigurationError as error:
                print(error)
            ```
        """
        self._refuse_nested_run()
        return await self._handle.host.dispatch(self._install, packages)

    async def _install(self, packages: tuple[str, ...]) -> Mapping[str, str]:
        async with self._exclusive():
            pool = await self._handle.host.get_pool()
            check_packages_support(pool.capabilities)
            await self._handle.begin()
            instance, versions = await _install(pool, self._handle.id, packages)
            self._packages = tuple(dict.fromkeys((*self._packages, *packages)))
            self._handle.instance = self._handle.instance or instance
        return versions

    async def _restore_packages(self) -> None:
        """Install the packages again after the pool lost the session."""
        if not self._packages:
            return
        pool = await self._handle.host.get_pool()
        with suppress(CodeInterpreterError):
            await _install(pool, self._handle.id, self._packages)
            self._notes.append(f"packages installed again: {', '.join(self._packages)}")
            return
        self._notes.append(f"packages are gone: {', '.join(self._packages)}; install them again")
        self._packages = ()


async def _install(
    pool: SessionPool, session_id: str, packages: Sequence[str]
) -> tuple[str | None, Mapping[str, str]]:
    """Install packages. Return the instance that got them, if it is known, and the versions."""
    if not isinstance(pool, RemotePackages):
        instance = await pool.get_instance(session_id)  # before, so that no loss is overlooked
        return instance, await pool.install_packages(session_id, packages)
    try:
        from .remote_packages import install_remotely  # noqa: PLC0415 - it needs `packaging`
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            f"installing packages needs {missing.name}", hint="pip install packaging"
        ) from missing
    return await install_remotely(pool, session_id, packages)
