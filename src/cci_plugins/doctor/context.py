"""What the checks share: settings, the sign-in, and what was asked of Azure once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cci_plugins.azure.credentials import CachedCredential, TokenCredential, decode_claims
from cci_plugins.azure.options import ARM
from cci_plugins.common.settings import Settings
from cci_plugins.core.interpreter import CodeInterpreter, build_file_options, build_pool
from cci_plugins.errors import ConfigurationError

from .findings import Finding, Mask, SkipCheckError

if TYPE_CHECKING:
    from cci_plugins.azure.resource_manager import ArmClient

_POOL = re.compile(
    r"(/subscriptions/([^/]+)/resourceGroups/([^/]+))(?:/providers/Microsoft\.App)?"
    r"/sessionPools/([^/?]+)",
    re.IGNORECASE,
)

Api = Literal["APP", "FEATURES", "RESOURCES", "ROLES", "SUBSCRIPTIONS"]
"""A part of Resource Manager, as `provisioning.versions` names it."""


class Context:
    """What is known while the checks run.

    Args:
        credential: Signs in to Azure; `DefaultAzureCredential` when None.
        mask: Covers names.
        ca: Certificate authorities for Resource Manager, instead of the system's.
        local_only: Whether nothing but this machine is looked at.

    Attributes:
        ca: As given.
        done: What each check found out so far.
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
        """Close what was opened."""
        await self._stack.aclose()

    @cached_property
    def settings(self) -> Settings:
        """The settings, also when they make only half a pool.

        Raises:
            ConfigurationError: A value is not valid.
        """
        return Settings.read(check=False)

    @property
    def arm_endpoint(self) -> str:
        """Azure Resource Manager's address."""
        return (self.settings.arm_endpoint or ARM).rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether code runs on this machine."""
        return self.settings.chosen_pool == "local"

    @cached_property
    def pool_parts(self) -> tuple[str, str, str, str] | None:
        """The pool's resource id, subscription, resource group and name, where they are known."""
        known = self.settings
        for text in (known.resource_id, known.endpoint, known.mcp_endpoint):
            if match := _POOL.search(text or ""):
                group_id, subscription, group, name = match.groups()
                self.mask.name("subscription", subscription)
                self.mask.name("resource group", group)
                self.mask.name("session pool", name)
                pool_id = f"{group_id}/providers/Microsoft.App/sessionPools/{name}"
                return pool_id, subscription, group, name
        return None

    @property
    def subscription(self) -> str | None:
        """The subscription, where it is known."""
        parts = self.pool_parts
        return self.settings.subscription if parts is None else parts[1]

    @property
    def requires_sign_in(self) -> bool:
        """Whether anything that is configured needs a sign-in to Azure."""
        known = self.settings
        by_token = known.chosen_pool == "custom" and known.access_token is None
        by_storage = known.storage_account is not None and known.storage_key is None
        provisions = known.subscription and known.resource_group
        return bool(by_token or by_storage or known.resource_id or provisions or self.has_foundry)

    @property
    def is_all_local(self) -> bool:
        """Whether nothing but this machine is configured."""
        return self.is_local and not self.requires_sign_in and self.settings.storage_account is None

    @property
    def has_foundry(self) -> bool:
        """Whether a Foundry project is configured."""
        return bool(self.settings.foundry_endpoint or self.settings.foundry_project_id)

    def require(self, *checks: str) -> None:
        """Go on only where these checks did not fail."""
        for check in checks:
            if check in self.done and self.done[check].status in {"failed", "unknown"}:
                raise SkipCheckError(f"{check} comes first")

    async def fetch_token(self, scope: str) -> str:
        """A token of the sign-in.

        Raises:
            AuthenticationError: Signing in failed.
        """
        return str((await self.credential.get_token(scope)).token)

    async def principal(self) -> str:
        """The object id of who is signed in; empty when the token does not say."""
        found = decode_claims(await self.fetch_token(f"{self.arm_endpoint}/.default")).get("oid")
        return found if isinstance(found, str) else ""

    async def get(self, path: str, api: Api, step: str) -> Mapping[str, Any] | None:
        """What Resource Manager says of something, asked once; None when nothing is there."""
        key = path.lower()
        if key not in self._responses:
            arm, version = await self._open_arm(api)
            self._responses[key] = await arm.get(path, version, step=step)
        return self._responses[key]

    async def list(self, path: str, api: Api, step: str, **query: str) -> list[Mapping[str, Any]]:
        """Every item of a list; empty when the list itself is not there."""
        arm, version = await self._open_arm(api)
        return await arm.list(path, version, step=step, **query)

    async def _open_arm(self, api: Api) -> tuple[ArmClient, str]:
        """Resource Manager, and the version of one of its parts."""
        if self._arm is None:
            try:
                from cci_plugins.azure import api_versions
                from cci_plugins.azure.options import Azure
                from cci_plugins.azure.resource_manager import ArmClient
            except ConfigurationError as error:
                raise SkipCheckError(f"looking into Azure needs more: {error.hint}") from None
            self._versions = vars(api_versions)
            azure = Azure(credential=self.credential, endpoint=self.arm_endpoint, ca=self.ca)
            self._arm = await self._stack.enter_async_context(ArmClient(azure))
        return self._arm, str(self._versions[api])

    async def open_interpreter(self) -> CodeInterpreter:
        """An interpreter as these settings make one; its session is thrown away in the end."""
        if self._interpreter is None:
            pool = build_pool(self.settings, credential=self.credential)
            made = CodeInterpreter(
                pool, limits=self.settings.limits(), files=build_file_options(self.settings)
            )
            self._interpreter = await self._stack.enter_async_context(made)
        return self._interpreter
