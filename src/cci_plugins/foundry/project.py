"""A Foundry project: its addresses and its sign-in."""

from __future__ import annotations

import re
import ssl
from contextlib import aclosing
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
from azure.ai.projects.aio import AIProjectClient
from azure.mgmt.cognitiveservices.aio import CognitiveServicesManagementClient

from cci_plugins.azure import api_versions
from cci_plugins.azure.credentials import CachedCredential, TokenCredential
from cci_plugins.azure.options import ARM, Azure
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.azure.transport import build_connection_options, iterate_items
from cci_plugins.common.azure_hosts import check_sign_in_host
from cci_plugins.common.settings import Settings
from cci_plugins.errors import AuthenticationError, ConfigurationError, ProvisioningError

from .failures import OWNER, translate_management_errors

_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.CognitiveServices/accounts/(?P<account>[^/]+)/projects/(?P<project>[^/]+)",
    re.IGNORECASE,
)
_PATH = re.compile(r"/api/projects/[^/]+/?")
_API_NAME = "AI Foundry API"
_HINT = (
    "set FOUNDRY_PROJECT_ENDPOINT=https://<account>.services.ai.azure.com/api/projects/<project>, "
    "or AZURE_AI_PROJECT_ID to the project's resource id"
)


class ProjectLocation(NamedTuple):
    """The place of a project in Azure Resource Manager."""

    subscription: str
    group: str
    account: str
    project: str

    @property
    def id(self) -> str:
        """Its resource id."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
            f"/providers/Microsoft.CognitiveServices/accounts/{self.account}"
            f"/projects/{self.project}"
        )


class Project:
    """A Foundry project, by its endpoint or its resource id. The other one is looked up if needed.

    It caches tokens but holds no connections, so there is nothing to close.

    Args:
        endpoint: `https://<account>.services.ai.azure.com/api/projects/<project>`.
        resource_id: `/subscriptions/.../accounts/<account>/projects/<project>`.
        credential: A credential of azure-identity. `DefaultAzureCredential` when None.
        arm_endpoint: Azure Resource Manager's address. Sovereign clouds have another one.
        ca_file: Certificates to trust instead of the system's, in PEM.

    Raises:
        ConfigurationError: Neither address is passed, or one is invalid.

    Example:
        ```python
        from cci_plugins.foundry import Project

        project = Project("https://account.services.ai.azure.com/api/projects/project")
        ```
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        resource_id: str | None = None,
        credential: TokenCredential | None = None,
        arm_endpoint: str = ARM,
        ca_file: str | PathLike[str] | None = None,
    ) -> None:
        if endpoint is None and resource_id is None:
            raise ConfigurationError("the Foundry project is not named", hint=_HINT)
        self._endpoint = None if endpoint is None else _check_endpoint(endpoint)
        self._location = None if resource_id is None else _parse_resource_id(resource_id)
        self._arm = arm_endpoint.rstrip("/")
        self._ca = None if ca_file is None else fspath(ca_file)
        self.sign_in = CachedCredential(credential)

    @classmethod
    def from_env(cls, *, credential: TokenCredential | None = None) -> Self:
        """Return the project that the environment variables name.

        Args:
            credential: A credential of azure-identity. `DefaultAzureCredential` when None.

        Raises:
            ConfigurationError: They do not name a project, or a value is invalid.
        """
        settings = Settings.read(check=False)
        settings.check_sign_ins("foundry")
        return cls(
            settings.foundry_endpoint,
            resource_id=settings.foundry_project_id,
            credential=credential,
            arm_endpoint=settings.arm_endpoint,
        )

    def __repr__(self) -> str:
        return f"Project({self._endpoint or (self._location and self._location.id)!r})"

    @property
    def arm_endpoint(self) -> str:
        """Azure Resource Manager's address."""
        return self._arm

    def management(
        self, subscription: str, *, api_version: str = api_versions.COGNITIVE_SERVICES
    ) -> CognitiveServicesManagementClient:
        """Open a client of Resource Manager for Foundry's resources. The caller closes it."""
        return CognitiveServicesManagementClient(
            self.sign_in,
            subscription,
            base_url=self._arm,
            api_version=api_version,
            credential_scopes=[f"{self._arm}/.default"],
            user_agent="cci-plugins",
            **build_connection_options(self._arm, self._ca),
        )

    async def client(self) -> AIProjectClient:
        """Open a client of the project itself. The caller closes it.

        Raises:
            ProvisioningError: The project does not exist.
            AuthenticationError: Azure refused the sign-in.
        """
        endpoint = await self.endpoint()
        if self.sign_in.is_default:
            check_sign_in_host(endpoint, "foundry")
        return AIProjectClient(
            endpoint,
            self.sign_in,
            user_agent="cci-plugins",
            **build_connection_options(endpoint, self._ca),
        )

    def tls(self) -> ssl.SSLContext | None:
        """Return the certificates for an HTTP client, or None for its default."""
        return None if self._ca is None else ssl.create_default_context(cafile=self._ca)

    async def endpoint(self) -> str:
        """Return the project's endpoint.

        Raises:
            ProvisioningError: The project does not exist, or has no endpoint.
            AuthenticationError: Azure refused the sign-in.
        """
        if self._endpoint is None:
            location = await self.place()
            with translate_management_errors("Foundry project", role=OWNER):
                async with self.management(location.subscription) as client:
                    found: Any = await client.projects.get(
                        location.group, location.account, location.project
                    )
            addresses = found.properties.endpoints or {}
            if _API_NAME not in addresses:
                raise ProvisioningError("the Foundry project has no endpoint", hint=_HINT)
            self._endpoint = _check_endpoint(addresses[_API_NAME])
        return self._endpoint

    async def place(self) -> ProjectLocation:
        """Return the project's place in Resource Manager. Search by its endpoint if needed.

        Raises:
            ConfigurationError: No subscription of the sign-in has such a project.
            AuthenticationError: Azure refused the sign-in.
        """
        if self._location is None:
            for subscription in await self._list_subscriptions():
                self._location = await self._find_location(subscription)
                if self._location is not None:
                    return self._location
            raise ConfigurationError(
                "no subscription of this sign-in has the Foundry project",
                hint="pass its resource id: AZURE_AI_PROJECT_ID, or cci foundry connect --project",
            )
        return self._location

    async def _find_location(self, subscription: str) -> ProjectLocation | None:
        wanted = httpx.URL(self._endpoint or "")
        project = wanted.path.rstrip("/").rpartition("/")[2]
        with translate_management_errors("Foundry accounts", role="Reader"):
            async with (
                self.management(subscription) as client,
                aclosing(iterate_items(client.accounts.list())) as accounts,
            ):
                async for account in accounts:
                    if _has_address(account, wanted):
                        group = str(account.id).split("/")[4]
                        return ProjectLocation(subscription, group, str(account.name), project)
        return None

    async def _list_subscriptions(self) -> list[str]:
        """Return the ids of the subscriptions that the sign-in can see."""
        ca = None if self._ca is None else Path(self._ca)
        azure = Azure(credential=self.sign_in, endpoint=self._arm, ca=ca)
        async with ArmClient(azure) as arm:
            try:
                found = await arm.list_subscriptions()
            except ProvisioningError as error:
                raise AuthenticationError(
                    f"Azure did not list the subscriptions: {error}",
                    hint="sign in: az login; or pass the project's resource id",
                ) from None
        return [str(item["subscriptionId"]) for item in found]


def parse_project(text: str, *, credential: TokenCredential | None = None) -> Project:
    """Return the project for an endpoint or a resource id.

    Args:
        text: The endpoint or the resource id.
        credential: A credential of azure-identity. `DefaultAzureCredential` when None.

    Raises:
        ConfigurationError: The text is neither of them.
    """
    arm = Settings.read(check=False).arm_endpoint
    if text.startswith("/"):
        return Project(resource_id=text, credential=credential, arm_endpoint=arm)
    return Project(text, credential=credential, arm_endpoint=arm)


def _parse_resource_id(resource_id: str) -> ProjectLocation:
    match = _ID.fullmatch(resource_id.rstrip("/"))
    if match is None:
        raise ConfigurationError(
            f"{resource_id!r} is not the resource id of a Foundry project", hint=_HINT
        )
    return ProjectLocation(**match.groupdict())


def _check_endpoint(endpoint: str) -> str:
    try:
        url = httpx.URL(endpoint)
        host = url.host
    except (httpx.InvalidURL, TypeError, ValueError):
        url, host = httpx.URL(), ""
    if url.scheme != "https" or not host or url.userinfo or not _PATH.fullmatch(url.path):
        raise ConfigurationError("this is not the endpoint of a Foundry project", hint=_HINT)
    return endpoint.rstrip("/")


def _has_address(account: Any, wanted: httpx.URL) -> bool:
    """Return whether an account has an address, by its own name or one of its endpoints."""
    properties = account.properties
    name = str(properties.custom_sub_domain_name or account.name).lower()
    if wanted.host.lower().partition(".")[0] == name:
        return True
    addresses = (properties.endpoints or {}).values()
    return any(httpx.URL(address).netloc == wanted.netloc for address in addresses)
