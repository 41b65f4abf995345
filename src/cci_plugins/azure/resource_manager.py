"""Client of Azure Resource Manager: sign-in, retries, errors, lists.

It stands on azure-core alone, so that the extra `azure` is enough to read a pool's endpoint and
key. Long operations need azure-mgmt-core: `provisioning.client` adds them. Requests are raw paths
and bodies, because the models of the SDK's stable versions do not have `mcpServerSettings`.

Retries are the SDK's: connection failures, 408, 429 with its `Retry-After`, and 5xx. A version of
the API of Microsoft.App that Azure no longer has, or not yet, is replaced by another one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit

import anyio

from cci_plugins.common.urls import is_loopback_host
from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    ProtocolError,
)

from . import api_versions
from .credentials import CachedCredential
from .destinations import Destination
from .failures import BOUND_HINT, CONFLICT, NOT_FOUND, ArmError, build_error, clean, parse_error
from .options import Azure

try:
    from azure.core import AsyncPipelineClient
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
    from azure.core.pipeline import policies
    from azure.core.rest import HttpRequest

    from . import transport
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"Azure Resource Manager needs {missing.name}", hint='pip install "cci-plugins[azure]"'
    ) from missing

_FIRST_ERROR_STATUS = 400
_Items: TypeAlias = list[Mapping[str, Any]]
_USER_AGENT = "cci-plugins"
_APP_NAMESPACE = "/providers/microsoft.app/"
_VERSION_PARAMETER = re.compile(r"api-version=([\w-]+)")


class ArmClient:
    """Azure Resource Manager, for reading and for actions that end at once.

    Args:
        azure: Address and sign-in.
        read_timeout: Seconds to wait for more of an answer.

    Attributes:
        credential: The sign-in.
        scope: The scope of its tokens.

    Raises:
        ConfigurationError: The address is not an https URL. Loopback addresses may use http.
    """

    def __init__(self, azure: Azure, *, read_timeout: float = 300) -> None:
        self._azure = azure
        self._endpoint = azure.endpoint.rstrip("/")
        parts = urlsplit(self._endpoint)
        self._is_loopback = is_loopback_host(parts.hostname or "")
        if parts.scheme != "https" and not self._is_loopback:
            raise ConfigurationError(
                f"Azure Resource Manager must be reached by https, not {parts.scheme!r}",
                hint="correct CCI_ARM_ENDPOINT",
            )
        self.scope = f"{self._endpoint}/.default"
        self.credential = CachedCredential.wrap(azure.credential)
        self._destination = Destination(self._endpoint)
        self._transport_options = transport.build_connection_options(
            self._endpoint, azure.ca, read_timeout=read_timeout
        )
        self._client = self._build_client()
        self._version_replacements: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. The sign-in stays usable."""
        with anyio.CancelScope(shield=True):
            await self._client.close()

    async def get(self, path: str, version: str, *, step: str) -> Mapping[str, Any] | None:
        """Return a resource, or None if it does not exist.

        Args:
            path: Resource id.
            version: API version.
            step: The step for error messages, in words.

        Raises:
            ProvisioningError: Azure refused the request, or cannot be reached.
            AuthenticationError: The sign-in failed.
        """
        response = await self._send(self._build_request("GET", path, version), step)
        return None if _is_missing(response) else check_response(response, step)

    async def list_subscriptions(self) -> list[Mapping[str, Any]]:
        """Return the subscriptions that the sign-in can see.

        Raises:
            ProvisioningError: Azure refused the request, or cannot be reached.
            AuthenticationError: The sign-in failed.
        """
        return await self.list("/subscriptions", api_versions.SUBSCRIPTIONS, step="subscription")

    async def list(
        self, path: str, version: str, *, step: str, **query: str
    ) -> list[Mapping[str, Any]]:
        """Return every item of a list, from all its pages. A list that is missing is empty.

        Args:
            path: Path of the list.
            version: API version.
            step: The step for error messages, in words.
            **query: OData options, such as `filter`.

        Raises:
            ProvisioningError: Azure refused the request, or cannot be reached.
            AuthenticationError: The sign-in failed.
        """
        try:
            with transport.limit_azure_time(transport.STEP_SECONDS):
                return await self._read_pages(
                    self._build_request("GET", path, version, query=query), step
                )
        except ProtocolError as error:
            raise self._translate_bound(error, step) from None

    async def _read_pages(self, request: HttpRequest, step: str) -> _Items:
        found: _Items = []
        for _ in range(transport.MAX_PAGES):
            response = await self._send(request, step)
            if _is_missing(response):
                return found
            page = check_response(response, step)
            values = page.get("value")
            found += [item for item in as_list(values) if isinstance(item, Mapping)]
            if not (following := page.get("nextLink")):
                return found
            if len(found) > transport.MAX_ITEMS:
                break
            self._destination.check(str(following))
            request = HttpRequest("GET", str(following))
        raise transport.build_endless_error()

    async def post(
        self,
        path: str,
        version: str,
        *,
        step: str,
        body: Mapping[str, Any] | None = None,
        manual_command: str = "",
    ) -> Mapping[str, Any]:
        """Run an action of a resource.

        Args:
            path: Resource id and action.
            version: API version.
            step: The step for error messages, in words.
            body: The request's body, if the action needs one.
            manual_command: A command for the same action, shown when a role is missing.

        Raises:
            ProvisioningError: Azure refused the request, or cannot be reached.
            AuthenticationError: The sign-in failed.
        """
        request = self._build_request("POST", path, version, body=body)
        return check_response(await self._send(request, step), step, manual_command)

    def _build_client(self) -> Any:
        return AsyncPipelineClient(
            self._endpoint,
            policies=[
                policies.RequestIdPolicy(),
                policies.HeadersPolicy(),
                policies.UserAgentPolicy(_USER_AGENT),
                policies.ProxyPolicy(),
                policies.AsyncRetryPolicy(),
                policies.AsyncBearerTokenCredentialPolicy(self.credential, self.scope),
                policies.HttpLoggingPolicy(),
            ],
            **self._transport_options,
        )

    def _build_request(
        self,
        method: str,
        path: str,
        version: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> HttpRequest:
        options = {f"${name}": value for name, value in (query or {}).items()}
        return HttpRequest(
            method,
            f"{self._endpoint}{path}",
            params={"api-version": version, **options},
            json=None if body is None else dict(body),
        )

    async def _send(self, request: HttpRequest, step: str) -> Any:
        """Send a request and return the SDK's pipeline response, whatever its status.

        A refused version of the API is replaced, now and for later requests. Azure refuses it
        before it does anything, so nothing is done twice.
        """
        wanted = _read_version(request)
        _set_version(request, self._version_replacements.get(wanted, wanted))
        tried: list[str] = []
        try:
            while True:
                response = await self._send_once(request)
                tried.append(_read_version(request))
                other = _find_other_version(response, wanted, tried)
                if other is None:
                    return response
                self._version_replacements[wanted] = other
                _set_version(request, other)
        except AzureError as error:
            raise self._translate_error(error, step) from None
        except ProtocolError as error:
            raise self._translate_bound(error, step) from None

    async def _send_once(self, request: HttpRequest) -> Any:
        """Send a request, with the SDK's retries, and read its answer."""
        with transport.limit_azure_time(transport.STEP_SECONDS):
            response = await self._client.send_request(
                request,
                stream=True,
                _return_pipeline_response=True,
                enforce_https=not self._is_loopback,
            )
            try:
                await response.http_response.read()
            finally:
                await response.http_response.close()
            return response

    def _translate_bound(self, error: ProtocolError, step: str) -> ArmError:
        """Return the error for an answer without an end, or in an encoding of its own."""
        return ArmError(f"{step}: {error}", hint=BOUND_HINT, step=step)

    def _translate_error(self, error: AzureError, step: str) -> CodeInterpreterError:
        if isinstance(error, ClientAuthenticationError):
            return AuthenticationError(f"{step}: {clean(error.message)}", hint="sign in: az login")
        if isinstance(error, HttpResponseError):
            body = None if error.response is None else parse_json(error.response)
            if not (isinstance(body, Mapping) and isinstance(body.get("error"), Mapping)):
                body = {"message": str(error.message)}
            return build_error(step, error.status_code or 0, body)
        return ArmError(
            f"{step}: {self._endpoint} cannot be reached ({type(error).__name__})",
            hint="check the network and proxy, and CCI_ARM_ENDPOINT in sovereign clouds",
            step=step,
        )


def _read_version(request: HttpRequest) -> str:
    found = _VERSION_PARAMETER.search(request.url)
    return found[1] if found is not None and _APP_NAMESPACE in request.url.lower() else ""


def _set_version(request: HttpRequest, version: str) -> None:
    if version:
        request.url = _VERSION_PARAMETER.sub(f"api-version={version}", request.url)


def _find_other_version(response: Any, wanted: str, tried: list[str]) -> str | None:
    """Return the version to try after a refusal, or None after any other answer."""
    if not wanted or response.http_response.status_code < _FIRST_ERROR_STATUS:
        return None
    code, message = parse_error(parse_json(response.http_response))
    if code not in api_versions.REFUSALS:
        return None
    ours = api_versions.FALLBACKS.get(wanted, ())
    return api_versions.choose_other_version(wanted, ours, message, tried)


def has_terminal_state(found: Mapping[str, Any]) -> bool:
    """Return whether no operation on a resource is in progress."""
    state = as_mapping(found.get("properties")).get("provisioningState")
    return state is None or str(state).lower() in {"", "succeeded", "failed", "canceled"}


def as_list(value: Any) -> list[Any]:
    """Return a JSON list, or an empty one for any other value."""
    return value if isinstance(value, list) else []


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one for any other value."""
    return value if isinstance(value, Mapping) else {}


def _is_missing(response: Any) -> bool:
    """Return whether a resource does not exist. A missing subscription is an error instead."""
    text = response.http_response.text()
    if response.http_response.status_code == CONFLICT:
        # without its provider, a subscription has no resource of that type
        return "MissingSubscriptionRegistration" in text
    return response.http_response.status_code == NOT_FOUND and "SubscriptionNotFound" not in text


def check_response(response: Any, step: str, manual_command: str = "") -> Mapping[str, Any]:
    """Return the JSON object of an answer.

    Args:
        response: The SDK's pipeline response.
        step: The step for error messages, in words.
        manual_command: A command for the same step, shown when a role is missing.

    Raises:
        ProvisioningError: The status is an error.
        AuthenticationError: The status is 401.
    """
    status, body = response.http_response.status_code, parse_json(response.http_response)
    if status >= _FIRST_ERROR_STATUS:
        raise build_error(step, status, body, manual_command=manual_command)
    return as_mapping(body)


def parse_json(response: Any) -> Any:
    """Return the JSON value of an HTTP response, or None if it has none."""
    try:
        return json.loads(response.text() or "null")
    except (ValueError, AttributeError):
        return None
