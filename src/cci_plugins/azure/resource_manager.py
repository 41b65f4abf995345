"""Azure Resource Manager, through the pipeline of Azure's own SDK.

One client for every resource: the SDK's `azure-mgmt-appcontainers` brings sign-in, retries and
throttling; long-running operations are followed by its ARM poller. What is asked is said by
`resources.py`, because the models of the SDK's stable versions have no `mcpServerSettings`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from azure.core.credentials import AccessToken
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.core.polling import AsyncLROPoller
from azure.core.rest import HttpRequest
from azure.mgmt.appcontainers.aio import ContainerAppsAPIClient
from azure.mgmt.core.polling.async_arm_polling import AsyncARMPolling
from typing_extensions import override

from cci_plugins.errors import AuthenticationError, CodeInterpreterError, ProvisioningError

from .credentials import TokenCredential, default_credential
from .failures import clean, failure
from .options import Azure
from .resource import Resource

NOT_FOUND, CONFLICT = 404, 409
_BAD = 400
_FOREVER = 2**33  # a token that was given says nothing of its end
Waiting = Callable[[], None]


class SignIn:
    """The credential as the SDK's asynchronous clients take one.

    Args:
        credential: A blocking or asynchronous one, a token, or None for the default.
    """

    def __init__(self, credential: TokenCredential | str | None) -> None:
        self._credential = credential

    async def get_token(self, *scopes: str, **_options: Any) -> Any:
        """A token for these scopes."""
        if isinstance(self._credential, str):
            return AccessToken(self._credential, _FOREVER)
        if self._credential is None:
            self._credential = await anyio.to_thread.run_sync(default_credential)
        get_token = self._credential.get_token
        try:
            if inspect.iscoroutinefunction(get_token):
                return await get_token(*scopes)
            return await anyio.to_thread.run_sync(get_token, *scopes, abandon_on_cancel=True)
        except Exception as error:  # noqa: BLE001 - whatever the credential raises
            words = clean(str(error).strip().partition("\n")[0])
            raise AuthenticationError(
                f"signing in to Azure failed ({type(error).__name__}: {words})",
                hint="sign in: az login",
            ) from None

    async def close(self) -> None:
        """Leave the credential to who made it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Leave the credential to who made it."""


class _Polling(AsyncARMPolling):
    """The SDK's poller, which says whenever it waits."""

    waiting: Waiting

    @override
    async def _sleep(self, delay: float) -> None:
        self.waiting()
        await anyio.sleep(delay)


class Arm:
    """Resource Manager for one subscription.

    Attributes:
        writes: How many requests changed something.
    """

    def __init__(self, azure: Azure, subscription: str) -> None:
        endpoint = azure.endpoint.rstrip("/")
        self._azure = azure
        self.scope = f"{endpoint}/.default"
        self.sign_in = SignIn(azure.credential)
        self._client: Any = ContainerAppsAPIClient(
            self.sign_in,
            subscription,
            base_url=endpoint,
            credential_scopes=[self.scope],
            user_agent="cci-plugins",
            connection_verify=True if azure.ca is None else str(azure.ca),
        )
        self._endpoint = endpoint

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._client.close()

    async def get(self, path: str, version: str, *, step: str) -> Mapping[str, Any] | None:
        """What is there; None when nothing is.

        Raises:
            ProvisioningError: Azure did not say.
            AuthenticationError: The sign-in failed.
        """
        response = await self._send(HttpRequest("GET", path, params=_query(version)), step)
        if _is_missing(response):
            return None
        return _checked(response, step)

    async def list(
        self, path: str, version: str, *, step: str, **query: str
    ) -> list[Mapping[str, Any]]:
        """Every item of a list; empty when the list itself is not there."""
        found: list[Mapping[str, Any]] = []
        request = HttpRequest("GET", path, params=_query(version, **query))
        while True:
            response = await self._send(request, step)
            if _is_missing(response):
                return found
            page = _checked(response, step)
            found += [item for item in page.get("value") or [] if isinstance(item, Mapping)]
            if not (following := page.get("nextLink")):
                return found
            request = HttpRequest("GET", self._own(str(following), step))

    async def put(
        self, resource: Resource, *, step: str, waiting: Waiting, method: str = "PUT"
    ) -> Mapping[str, Any]:
        """Make or change a resource, and wait until that is done."""
        request = HttpRequest(
            method, resource.id, params=_query(resource.api_version), json=dict(resource.body)
        )
        return await self._long(request, step, waiting)

    async def delete(self, path: str, version: str, *, step: str, waiting: Waiting) -> None:
        """Remove a resource, and wait until it is gone."""
        await self._long(HttpRequest("DELETE", path, params=_query(version)), step, waiting)

    async def post(
        self,
        path: str,
        version: str,
        *,
        step: str,
        body: Mapping[str, Any] | None = None,
        by_hand: str = "",
        waiting: Waiting | None = None,
    ) -> Mapping[str, Any]:
        """Do an action of a resource.

        Args:
            path: The resource and the action.
            version: The API version.
            step: What is being done, in words.
            body: What the action needs.
            by_hand: The command that does the same.
            waiting: Called while the action takes long.
        """
        sent = None if body is None else dict(body)
        request = HttpRequest("POST", path, params=_query(version), json=sent)
        return await self._long(request, step, waiting or _silently, by_hand)

    def _own(self, url: str, step: str) -> str:
        """A link to go on with, which must not lead the token elsewhere."""
        own, other = urlsplit(self._endpoint), urlsplit(url)
        if (own.scheme, own.hostname) != (other.scheme, other.hostname):
            raise ProvisioningError(f"{step}: Azure named a link that leads elsewhere")
        return url

    async def _long(
        self, request: HttpRequest, step: str, waiting: Waiting, by_hand: str = ""
    ) -> Mapping[str, Any]:
        response = await self._send(request, step)
        if response.http_response.status_code == NOT_FOUND and request.method == "DELETE":
            return {}
        body = _checked(response, step, by_hand)
        if not _is_long(response, body):
            return body
        polling = _Polling(self._azure.polling.total_seconds())
        polling.waiting = waiting
        try:
            poller = AsyncLROPoller(self._client, response, _body, polling)
            with anyio.fail_after(self._azure.patience.total_seconds()):
                return _mapping(await poller.result())
        except TimeoutError:
            raise _too_long(step, self._azure) from None
        except HttpResponseError as error:
            raise _translated(step, error) from None
        except AzureError as error:
            raise _unreachable(step, error, self._endpoint) from None

    async def _send(self, request: HttpRequest, step: str) -> Any:
        try:
            return await self._client.send_request(request, _return_pipeline_response=True)
        except ClientAuthenticationError as error:
            raise AuthenticationError(
                f"{step}: {clean(str(error.message))}", hint="sign in: az login"
            ) from None
        except HttpResponseError as error:
            raise _translated(step, error) from None
        except AzureError as error:
            raise _unreachable(step, error, self._endpoint) from None


def _query(version: str, **more: str) -> dict[str, str]:
    return {"api-version": version, **{f"${name}": value for name, value in more.items()}}


def _is_long(response: Any, body: Mapping[str, Any]) -> bool:
    """Whether an answer is about work that goes on; the SDK's poller asks once more otherwise."""
    headers = response.http_response.headers
    if "Azure-AsyncOperation" in headers or "Location" in headers:
        return True
    return not is_settled(body)


def is_settled(found: Mapping[str, Any]) -> bool:
    """Whether nothing is being done to a resource."""
    state = _mapping(found.get("properties")).get("provisioningState")
    return state is None or str(state).lower() in {"", "succeeded", "failed", "canceled"}


def _silently() -> None:
    """Tell nobody."""


def _body(response: Any) -> Any:
    return _json(response.http_response)


def _json(response: Any) -> Any:
    try:
        return json.loads(response.text() or "null")
    except (ValueError, AttributeError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_missing(response: Any) -> bool:
    """Whether an answer says that nothing is there; a missing subscription is another matter."""
    text = response.http_response.text()
    if response.http_response.status_code == CONFLICT:
        return "MissingSubscriptionRegistration" in text  # then nothing of that type can be there
    return response.http_response.status_code == NOT_FOUND and "SubscriptionNotFound" not in text


def _checked(response: Any, step: str, by_hand: str = "") -> Mapping[str, Any]:
    status, body = response.http_response.status_code, _json(response.http_response)
    if status >= _BAD:
        raise failure(step, status, body, register=by_hand)
    return _mapping(body)


def _translated(step: str, error: HttpResponseError) -> CodeInterpreterError:
    response = error.response
    body = None if response is None else _json(response)
    status = error.status_code or 0
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        return failure(step, status, body)
    return failure(step, status, {"message": str(error.message)})


def _too_long(step: str, azure: Azure) -> ProvisioningError:
    minutes = round(azure.patience.total_seconds() / 60)
    return ProvisioningError(
        f"{step} takes longer than {minutes} minutes",
        hint="Azure goes on with it: run the same command again later, it goes on from here",
        step=step,
    )


def _unreachable(step: str, error: AzureError, endpoint: str) -> ProvisioningError:
    return ProvisioningError(
        f"{step}: {endpoint} cannot be reached ({type(error).__name__})",
        hint="check the network and proxy, and CCI_ARM_ENDPOINT in sovereign clouds",
        step=step,
    )
