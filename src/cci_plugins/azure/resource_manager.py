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

from .credentials import TokenCredential, create_default_credential
from .failures import build_error, clean
from .options import Azure
from .resource import Resource

NOT_FOUND, CONFLICT = 404, 409
_FIRST_ERROR_STATUS = 400
_NO_EXPIRY = 2**33  # a token that was given says nothing of its end
WaitHandler = Callable[[], None]


class ArmCredential:
    """The credential as the SDK's asynchronous clients take one.

    Args:
        credential: A blocking or asynchronous one, a token, or None for the default.
    """

    def __init__(self, credential: TokenCredential | str | None) -> None:
        self._credential = credential

    async def get_token(self, *scopes: str, **_options: Any) -> Any:
        """A token for these scopes."""
        if isinstance(self._credential, str):
            return AccessToken(self._credential, _NO_EXPIRY)
        if self._credential is None:
            self._credential = await anyio.to_thread.run_sync(create_default_credential)
        get_token = self._credential.get_token
        try:
            if inspect.iscoroutinefunction(get_token):
                return await get_token(*scopes)
            return await anyio.to_thread.run_sync(get_token, *scopes, abandon_on_cancel=True)
        except Exception as error:  # noqa: BLE001 - whatever the credential raises
            reason = clean(str(error).strip().partition("\n")[0])
            raise AuthenticationError(
                f"signing in to Azure failed ({type(error).__name__}: {reason})",
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

    report_waiting: WaitHandler

    @override
    async def _sleep(self, delay: float) -> None:
        self.report_waiting()
        await anyio.sleep(delay)


class ArmClient:
    """Resource Manager for one subscription.

    Attributes:
        writes: How many requests changed something.
    """

    def __init__(self, azure: Azure, subscription: str) -> None:
        endpoint = azure.endpoint.rstrip("/")
        self._azure = azure
        self.scope = f"{endpoint}/.default"
        self.credential = ArmCredential(azure.credential)
        self._client: Any = ContainerAppsAPIClient(
            self.credential,
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
        response = await self._send(HttpRequest("GET", path, params=_build_query(version)), step)
        if _is_missing(response):
            return None
        return _check_response(response, step)

    async def list(
        self, path: str, version: str, *, step: str, **query: str
    ) -> list[Mapping[str, Any]]:
        """Every item of a list; empty when the list itself is not there."""
        found: list[Mapping[str, Any]] = []
        request = HttpRequest("GET", path, params=_build_query(version, **query))
        while True:
            response = await self._send(request, step)
            if _is_missing(response):
                return found
            page = _check_response(response, step)
            found += [item for item in page.get("value") or [] if isinstance(item, Mapping)]
            if not (following := page.get("nextLink")):
                return found
            request = HttpRequest("GET", self._check_link(str(following), step))

    async def put(
        self, resource: Resource, *, step: str, report_waiting: WaitHandler, method: str = "PUT"
    ) -> Mapping[str, Any]:
        """Make or change a resource, and wait until that is done."""
        request = HttpRequest(
            method, resource.id, params=_build_query(resource.api_version), json=dict(resource.body)
        )
        return await self._run_operation(request, step, report_waiting)

    async def delete(
        self, path: str, version: str, *, step: str, report_waiting: WaitHandler
    ) -> None:
        """Remove a resource, and wait until it is gone."""
        await self._run_operation(
            HttpRequest("DELETE", path, params=_build_query(version)), step, report_waiting
        )

    async def post(
        self,
        path: str,
        version: str,
        *,
        step: str,
        body: Mapping[str, Any] | None = None,
        manual_command: str = "",
        report_waiting: WaitHandler | None = None,
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
        request = HttpRequest("POST", path, params=_build_query(version), json=sent)
        return await self._run_operation(
            request, step, report_waiting or _ignore_waiting, manual_command
        )

    def _check_link(self, url: str, step: str) -> str:
        """A link to go on with, which must not lead the token elsewhere."""
        own, other = urlsplit(self._endpoint), urlsplit(url)
        if (own.scheme, own.hostname) != (other.scheme, other.hostname):
            raise ProvisioningError(f"{step}: Azure named a link that leads elsewhere")
        return url

    async def _run_operation(
        self, request: HttpRequest, step: str, report_waiting: WaitHandler, manual_command: str = ""
    ) -> Mapping[str, Any]:
        response = await self._send(request, step)
        if response.http_response.status_code == NOT_FOUND and request.method == "DELETE":
            return {}
        body = _check_response(response, step, manual_command)
        if not _is_long_running(response, body):
            return body
        polling = _Polling(self._azure.polling.total_seconds())
        polling.report_waiting = report_waiting
        try:
            poller = AsyncLROPoller(self._client, response, _parse_body, polling)
            with anyio.fail_after(self._azure.patience.total_seconds()):
                return _as_mapping(await poller.result())
        except TimeoutError:
            raise _build_timeout_error(step, self._azure) from None
        except HttpResponseError as error:
            raise _translate_error(step, error) from None
        except AzureError as error:
            raise _build_unreachable_error(step, error, self._endpoint) from None

    async def _send(self, request: HttpRequest, step: str) -> Any:
        try:
            return await self._client.send_request(request, _return_pipeline_response=True)
        except ClientAuthenticationError as error:
            raise AuthenticationError(
                f"{step}: {clean(str(error.message))}", hint="sign in: az login"
            ) from None
        except HttpResponseError as error:
            raise _translate_error(step, error) from None
        except AzureError as error:
            raise _build_unreachable_error(step, error, self._endpoint) from None


def _build_query(version: str, **more: str) -> dict[str, str]:
    return {"api-version": version, **{f"${name}": value for name, value in more.items()}}


def _is_long_running(response: Any, body: Mapping[str, Any]) -> bool:
    """Whether an answer is about work that goes on; the SDK's poller asks once more otherwise."""
    headers = response.http_response.headers
    if "Azure-AsyncOperation" in headers or "Location" in headers:
        return True
    return not has_terminal_state(body)


def has_terminal_state(found: Mapping[str, Any]) -> bool:
    """Whether nothing is being done to a resource."""
    state = _as_mapping(found.get("properties")).get("provisioningState")
    return state is None or str(state).lower() in {"", "succeeded", "failed", "canceled"}


def _ignore_waiting() -> None:
    """Tell nobody."""


def _parse_body(response: Any) -> Any:
    return _parse_json(response.http_response)


def _parse_json(response: Any) -> Any:
    try:
        return json.loads(response.text() or "null")
    except (ValueError, AttributeError):
        return None


def _as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_missing(response: Any) -> bool:
    """Whether an answer says that nothing is there; a missing subscription is another matter."""
    text = response.http_response.text()
    if response.http_response.status_code == CONFLICT:
        return "MissingSubscriptionRegistration" in text  # then nothing of that type can be there
    return response.http_response.status_code == NOT_FOUND and "SubscriptionNotFound" not in text


def _check_response(response: Any, step: str, manual_command: str = "") -> Mapping[str, Any]:
    status, body = response.http_response.status_code, _parse_json(response.http_response)
    if status >= _FIRST_ERROR_STATUS:
        raise build_error(step, status, body, register_command=manual_command)
    return _as_mapping(body)


def _translate_error(step: str, error: HttpResponseError) -> CodeInterpreterError:
    response = error.response
    body = None if response is None else _parse_json(response)
    status = error.status_code or 0
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        return build_error(step, status, body)
    return build_error(step, status, {"message": str(error.message)})


def _build_timeout_error(step: str, azure: Azure) -> ProvisioningError:
    minutes = round(azure.patience.total_seconds() / 60)
    return ProvisioningError(
        f"{step} takes longer than {minutes} minutes",
        hint="Azure goes on with it: run the same command again later, it goes on from here",
        step=step,
    )


def _build_unreachable_error(step: str, error: AzureError, endpoint: str) -> ProvisioningError:
    return ProvisioningError(
        f"{step}: {endpoint} cannot be reached ({type(error).__name__})",
        hint="check the network and proxy, and CCI_ARM_ENDPOINT in sovereign clouds",
        step=step,
    )
