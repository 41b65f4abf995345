"""A Foundry project: where it is, and how to sign in to it."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from os import PathLike, fspath
from typing import Any, NamedTuple, Self

import httpx
from azure.ai.projects.aio import AIProjectClient
from azure.mgmt.cognitiveservices.aio import CognitiveServicesManagementClient

from cci_plugins.azure.credentials import ProviderAuth, TokenCredential
from cci_plugins.azure.pool_resource import ARM
from cci_plugins.common.settings import Settings
from cci_plugins.errors import AuthenticationError, ConfigurationError, ProvisioningError
from cci_plugins.mcp_client.http import make_http, map_transport_errors

from .failures import OWNER, translate_management_errors
from .sign_in import CachedCredential

API_VERSION = "2025-12-01"  # the first stable one whose connections know the category RemoteTool
_SUBSCRIPTIONS_VERSION = "2022-12-01"
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
    """A project in Azure Resource Manager."""

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
    """A Foundry project. Either address will do; the other one is asked for when it is needed.

    It holds tokens but no connections, so there is nothing to close.

    Args:
        endpoint: `https://<account>.services.ai.azure.com/api/projects/<project>`.
        resource_id: `/subscriptions/.../accounts/<account>/projects/<project>`.
        credential: A credential of azure-identity; `DefaultAzureCredential` when None.
        arm_endpoint: Azure Resource Manager's address; another one in sovereign clouds.
        ca_file: Certificates to trust instead of the system's, in PEM.

    Raises:
        ConfigurationError: Neither address is given, or one cannot be right.
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
        self._place = None if resource_id is None else _place(resource_id)
        self._arm = arm_endpoint.rstrip("/")
        self._ca = None if ca_file is None else fspath(ca_file)
        self.sign_in = CachedCredential(credential)

    @classmethod
    def from_env(cls, *, credential: TokenCredential | None = None) -> Self:
        """The project that the environment names.

        Raises:
            ConfigurationError: It names none, or a value is not valid.
        """
        settings = Settings.read(check=False)
        return cls(
            settings.foundry_endpoint,
            resource_id=settings.foundry_project_id,
            credential=credential,
            arm_endpoint=settings.arm_endpoint,
        )

    def __repr__(self) -> str:
        return f"Project({self._endpoint or (self._place and self._place.id)!r})"

    @property
    def arm_endpoint(self) -> str:
        """Azure Resource Manager's address."""
        return self._arm

    def management(self, subscription: str) -> CognitiveServicesManagementClient:
        """A client of Resource Manager for this project's kind of resources; close it."""
        return CognitiveServicesManagementClient(
            self.sign_in,
            subscription,
            base_url=self._arm,
            api_version=API_VERSION,
            credential_scopes=[f"{self._arm}/.default"],
            user_agent="cci-plugins",
            connection_verify=self._ca or True,
        )

    async def client(self) -> AIProjectClient:
        """A client of the project itself; close it.

        Raises:
            ProvisioningError: The project is not there.
            AuthenticationError: Azure refused the sign-in.
        """
        return AIProjectClient(
            await self.endpoint(),
            self.sign_in,
            user_agent="cci-plugins",
            connection_verify=self._ca or True,
        )

    def tls(self) -> ssl.SSLContext | None:
        """What an HTTP client is to trust; None for its default."""
        return None if self._ca is None else ssl.create_default_context(cafile=self._ca)

    async def endpoint(self) -> str:
        """The project's own address.

        Raises:
            ProvisioningError: The project is not there.
            AuthenticationError: Azure refused the sign-in.
        """
        if self._endpoint is None:
            place = await self.place()
            with translate_management_errors("Foundry project", role=OWNER):
                async with self.management(place.subscription) as client:
                    found: Any = await client.projects.get(
                        place.group, place.account, place.project
                    )
            addresses = found.properties.endpoints or {}
            if _API_NAME not in addresses:
                raise ProvisioningError("the Foundry project has no address", hint=_HINT)
            self._endpoint = _check_endpoint(addresses[_API_NAME])
        return self._endpoint

    async def place(self) -> ProjectLocation:
        """Where the project is in Resource Manager; looked for by its endpoint if need be.

        Raises:
            ConfigurationError: No subscription of the sign-in has such a project.
            AuthenticationError: Azure refused the sign-in.
        """
        if self._place is None:
            async for subscription in self._subscriptions():
                self._place = await self._find_location(subscription)
                if self._place is not None:
                    return self._place
            raise ConfigurationError(
                "no subscription of this sign-in has the Foundry project",
                hint="give its resource id: AZURE_AI_PROJECT_ID, or cci foundry connect --project",
            )
        return self._place

    async def _find_location(self, subscription: str) -> ProjectLocation | None:
        wanted = httpx.URL(self._endpoint or "")
        project = wanted.path.rstrip("/").rpartition("/")[2]
        with translate_management_errors("Foundry accounts", role="Reader"):
            async with self.management(subscription) as client:
                accounts: AsyncIterator[Any] = client.accounts.list()
                async for account in accounts:
                    if _has_address(account, wanted):
                        group = str(account.id).split("/")[4]
                        return ProjectLocation(subscription, group, str(account.name), project)
        return None

    async def _subscriptions(self) -> AsyncIterator[str]:
        """Ids of the subscriptions that the sign-in sees."""
        url: str | None = f"{self._arm}/subscriptions?api-version={_SUBSCRIPTIONS_VERSION}"
        async with make_http(verify=self.tls() or True) as http:
            http.auth = ProviderAuth(self.sign_in.bearer(f"{self._arm}/.default"))
            while url is not None and url.startswith(f"{self._arm}/"):
                with map_transport_errors(starts_code=False):
                    response = await http.get(url, timeout=30)
                if not response.is_success:
                    raise AuthenticationError(
                        f"Azure did not list the subscriptions ({response.status_code})",
                        hint="sign in: az login; or give the project's resource id",
                    )
                page = response.json()
                for item in page.get("value") or []:
                    yield str(item["subscriptionId"])
                url = page.get("nextLink")


def parse_project(text: str, *, credential: TokenCredential | None = None) -> Project:
    """The project that a person named by its endpoint or its resource id.

    Raises:
        ConfigurationError: It is neither.
    """
    arm = Settings.read(check=False).arm_endpoint
    if text.startswith("/"):
        return Project(resource_id=text, credential=credential, arm_endpoint=arm)
    return Project(text, credential=credential, arm_endpoint=arm)


def _place(resource_id: str) -> ProjectLocation:
    match = _ID.fullmatch(resource_id.rstrip("/"))
    if match is None:
        raise ConfigurationError("this is not the resource id of a Foundry project", hint=_HINT)
    return ProjectLocation(**match.groupdict())


def _check_endpoint(endpoint: str) -> str:
    try:
        url = httpx.URL(endpoint)
    except (httpx.InvalidURL, TypeError):
        url = httpx.URL()
    if url.scheme != "https" or not url.host or url.userinfo or not _PATH.fullmatch(url.path):
        raise ConfigurationError("this is not the endpoint of a Foundry project", hint=_HINT)
    return endpoint.rstrip("/")


def _has_address(account: Any, wanted: httpx.URL) -> bool:
    """Whether an account answers at an address, under its own name or one of its endpoints."""
    properties = account.properties
    name = str(properties.custom_sub_domain_name or account.name).lower()
    if wanted.host.lower().partition(".")[0] == name:
        return True
    addresses = (properties.endpoints or {}).values()
    return any(httpx.URL(address).netloc == wanted.netloc for address in addresses)
