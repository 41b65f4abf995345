"""The form of a check, and the context that all checks share."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cci_plugins.azure.credentials import CachedCredential, TokenCredential, decode_claims
from cci_plugins.azure.options import ARM
from cci_plugins.common.settings import Settings
from cci_plugins.core.interpreter import CodeInterpreter, build_file_options
from cci_plugins.core.pool_choice import build_pool
from cci_plugins.errors import ConfigurationError

from .findings import Finding, Mask, Outcome, SkipCheckError

if TYPE_CHECKING:
    from cci_plugins.azure.resource_manager import ArmClient

_POOL = re.compile(
    r"(/subscriptions/([^/]+)/resourceGroups/([^/]+))(?:/providers/Microsoft\.App)?"
    r"/sessionPools/([^/?]+)",
    re.IGNORECASE,
)

Api = Literal["APP", "COGNITIVE_SERVICES", "FEATURES", "RESOURCES", "ROLES", "SUBSCRIPTIONS"]
"""Part of Resource Manager that has an API version of its own, as in `azure.api_versions`."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of `cci doctor`.

    Attributes:
        id: Name of the check.
        run: Function that makes the check. An error of this package that it raises is a failure.
        fix: What to do about a failure that brings no fix of its own.
        requires: Ids of checks that must not have failed before this one.
        limit: Time limit.
    """

    id: str
    run: Callable[[Context], Awaitable[Outcome]]
    fix: str
    requires: tuple[str, ...] = ()
    limit: timedelta = timedelta(seconds=60)


class Context:
    """Shared state of the checks: settings, sign-in, clients, and answers of Azure.

    Everything is opened on first use and closed by `aclose()`.

    Args:
        credential: Credential for Azure, or None for `DefaultAzureCredential`.
        mask: Mask for names of resources.
        ca: File with the certificate authorities for Resource Manager, or None for those of
            the system.
        local_only: Whether only this machine is checked.

    Attributes:
        done: Findings of the checks so far, by id.
    """

    def __init__(
        self, credential: TokenCredential | None, mask: Mask, *, ca: Path | None, local_only: bool
    ) -> None:
        self.credential = CachedCredential.wrap(credential)
        self.mask = mask
        self.ca = ca
        self.local_only = local_only
        self.done: dict[str, Finding] = {}
        self._stack = AsyncExitStack()
        self._responses: dict[str, Mapping[str, Any] | None] = {}
        self._arm: ArmClient | None = None
        self._versions: Mapping[str, Any] = {}
        self._interpreter: CodeInterpreter | None = None

    async def aclose(self) -> None:
        """Close every client and the session."""
        await self._stack.aclose()

    @cached_property
    def settings(self) -> Settings:
        """Settings of the environment, even if they describe a pool incompletely.

        Raises:
            ConfigurationError: A value is invalid.
        """
        return Settings.read(check=False)

    @property
    def arm_endpoint(self) -> str:
        """URL of Azure Resource Manager."""
        return (self.settings.arm_endpoint or ARM).rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether code runs on this machine."""
        return self.settings.chosen_pool == "local"

    @cached_property
    def pool_parts(self) -> tuple[str, str, str, str] | None:
        """Resource id, subscription, resource group and name of the pool, or None if unknown."""
        settings = self.settings
        for text in (settings.resource_id, settings.endpoint, settings.mcp_endpoint):
            if match := _POOL.search(text or ""):
                group_id, subscription, group, name = match.groups()
                self.mask.hide_name("subscription", subscription)
                self.mask.hide_name("resource group", group)
                self.mask.hide_name("session pool", name)
                pool_id = f"{group_id}/providers/Microsoft.App/sessionPools/{name}"
                return pool_id, subscription, group, name
        return None

    @property
    def subscription(self) -> str | None:
        """Id of the subscription, or None if unknown."""
        parts = self.pool_parts
        return self.settings.subscription if parts is None else parts[1]

    @property
    def requires_sign_in(self) -> bool:
        """Whether anything that is configured needs a sign-in to Azure."""
        settings = self.settings
        by_token = settings.chosen_pool == "custom" and settings.access_token is None
        by_storage = settings.storage_account is not None and settings.storage_key is None
        provisions = settings.subscription and settings.resource_group
        return bool(
            by_token or by_storage or settings.resource_id or provisions or self.has_foundry
        )

    @property
    def is_all_local(self) -> bool:
        """Whether the settings use only this machine."""
        return self.is_local and not self.requires_sign_in and self.settings.storage_account is None

    @property
    def has_foundry(self) -> bool:
        """Whether a Foundry project is configured."""
        return bool(self.settings.foundry_endpoint or self.settings.foundry_project_id)

    def require(self, *checks: str) -> None:
        """Check that none of these checks failed.

        Raises:
            SkipCheckError: A check failed, or its result is unknown.
        """
        for check in checks:
            if check in self.done and self.done[check].status in {"failed", "unknown"}:
                raise SkipCheckError(f"{check} must succeed first")

    async def fetch_token(self, scope: str) -> str:
        """Return an access token of the sign-in.

        Args:
            scope: Scope of the token, such as `https://management.azure.com/.default`.

        Raises:
            AuthenticationError: Signing in failed.
        """
        return str((await self.credential.get_token(scope)).token)

    async def fetch_principal_id(self) -> str:
        """Return the object id of who is signed in, or "" if the token does not contain it."""
        claims = decode_claims(await self.fetch_token(f"{self.arm_endpoint}/.default"))
        principal_id = claims.get("oid")
        return principal_id if isinstance(principal_id, str) else ""

    async def get(self, path: str, api: Api, step: str) -> Mapping[str, Any] | None:
        """Return a resource from Resource Manager, or None if it does not exist.

        Each resource is requested once.

        Args:
            path: Path or id of the resource.
            api: Part of Resource Manager.
            step: Name of the resource in error messages.
        """
        key = path.lower()
        if key not in self._responses:
            arm, version = await self._open_arm(api)
            self._responses[key] = await arm.get(path, version, step=step)
        return self._responses[key]

    async def list(self, path: str, api: Api, step: str, **query: str) -> list[Mapping[str, Any]]:
        """Return all items of a list, or an empty list if it does not exist.

        Args:
            path: Path of the list.
            api: Part of Resource Manager.
            step: Name of the list in error messages.
            **query: Further parameters of the request.
        """
        arm, version = await self._open_arm(api)
        return await arm.list(path, version, step=step, **query)

    async def open_arm(self) -> ArmClient:
        """Return the client of Resource Manager. It is closed with the context.

        Raises:
            SkipCheckError: The package that it needs is not installed.
        """
        if self._arm is None:
            try:
                from cci_plugins.azure import api_versions
                from cci_plugins.azure.options import Azure
                from cci_plugins.azure.resource_manager import ArmClient
            except ConfigurationError as error:
                raise SkipCheckError(f"this check needs another package: {error.hint}") from None
            self._versions = vars(api_versions)
            azure = Azure(credential=self.credential, endpoint=self.arm_endpoint, ca=self.ca)
            self._arm = await self._stack.enter_async_context(ArmClient(azure))
        return self._arm

    async def _open_arm(self, api: Api) -> tuple[ArmClient, str]:
        """Return the client of Resource Manager, and the API version of one of its parts."""
        return await self.open_arm(), str(self._versions[api])

    async def open_interpreter(self) -> CodeInterpreter:
        """Return an interpreter built from the settings. Its sessions end with the context."""
        if self._interpreter is None:
            pool = build_pool(self.settings, credential=self.credential)
            interpreter = CodeInterpreter(
                pool, limits=self.settings.limits(), files=build_file_options(self.settings)
            )
            self._interpreter = await self._stack.enter_async_context(interpreter)
        return self._interpreter
