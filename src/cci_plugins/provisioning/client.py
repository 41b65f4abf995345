"""Client of Azure Resource Manager that also changes resources and follows long operations.

The SDK's `azure-mgmt-appcontainers` sends the requests, and its ARM poller follows each operation
until it ends. Everything else is the `ArmClient` that reading uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
from azure.core.exceptions import AzureError
from azure.core.polling import AsyncLROPoller
from azure.core.rest import HttpRequest
from azure.mgmt.appcontainers.aio import ContainerAppsAPIClient
from azure.mgmt.core.polling.async_arm_polling import AsyncARMPolling
from typing_extensions import override

from cci_plugins.azure.failures import NOT_FOUND
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import Resource
from cci_plugins.azure.resource_manager import (
    ArmClient,
    as_mapping,
    check_response,
    has_terminal_state,
    parse_json,
)
from cci_plugins.errors import ProtocolError, ProvisioningError

WaitHandler = Callable[[], None]


class _Polling(AsyncARMPolling):
    """The SDK's poller, with a callback before each wait."""

    report_waiting: WaitHandler

    @override
    async def _sleep(self, delay: float) -> None:
        self.report_waiting()
        await anyio.sleep(delay)


class ProvisioningClient(ArmClient):
    """Azure Resource Manager for one subscription, with changes.

    Every method raises `ProvisioningError` when Azure refuses a request or takes longer than
    `Azure.patience`, and `AuthenticationError` when the sign-in fails.

    Args:
        azure: Address, sign-in and waiting times.
        subscription: Id of the subscription.
    """

    def __init__(self, azure: Azure, subscription: str) -> None:
        self._subscription = subscription
        super().__init__(azure)

    async def put(
        self, resource: Resource, *, step: str, report_waiting: WaitHandler, method: str = "PUT"
    ) -> Mapping[str, Any]:
        """Create or change a resource, and wait until the operation ends.

        Args:
            resource: The desired state.
            step: The step for error messages, in words.
            report_waiting: Called before each wait.
            method: `PUT`, or `PATCH` to change only what the body names.
        """
        request = self._build_request(method, resource.id, resource.api_version, body=resource.body)
        return await self._run_operation(request, step, report_waiting)

    async def delete(
        self, path: str, version: str, *, step: str, report_waiting: WaitHandler
    ) -> None:
        """Remove a resource, and wait until it no longer exists.

        Args:
            path: Resource id.
            version: API version.
            step: The step for error messages, in words.
            report_waiting: Called before each wait.
        """
        await self._run_operation(
            self._build_request("DELETE", path, version), step, report_waiting
        )

    @override
    async def post(
        self,
        path: str,
        version: str,
        *,
        step: str,
        body: Mapping[str, Any] | None = None,
        manual_command: str = "",
    ) -> Mapping[str, Any]:
        """Run an action of a resource, and wait until it ends. See `ArmClient.post`."""
        request = self._build_request("POST", path, version, body=body)
        return await self._run_operation(request, step, _ignore_waiting, manual_command)

    @override
    def _build_client(self) -> Any:
        return ContainerAppsAPIClient(
            self.credential,
            self._subscription,
            base_url=self._endpoint,
            credential_scopes=[self.scope],
            user_agent="cci-plugins",
            **self._transport_options,
        )

    async def _run_operation(
        self, request: HttpRequest, step: str, report_waiting: WaitHandler, manual_command: str = ""
    ) -> Mapping[str, Any]:
        response = await self._send(request, step)
        if response.http_response.status_code == NOT_FOUND and request.method == "DELETE":
            return {}
        body = check_response(response, step, manual_command)
        if not _is_long_running(response, body):
            return body
        polling = _Polling(self._azure.polling.total_seconds())
        polling.report_waiting = report_waiting
        try:
            poller = AsyncLROPoller(self._client, response, _parse_body, polling)
            with anyio.fail_after(self._azure.patience.total_seconds()):
                return as_mapping(await poller.result())
        except TimeoutError:
            raise self._build_timeout_error(step) from None
        except AzureError as error:
            raise self._translate_error(error, step) from None
        except ProtocolError as error:
            raise self._translate_bound(error, step) from None

    def _build_timeout_error(self, step: str) -> ProvisioningError:
        minutes = round(self._azure.patience.total_seconds() / 60)
        return ProvisioningError(
            f"{step} takes longer than {minutes} minutes",
            hint="Azure is still working: run the same command again later; it continues from here",
            step=step,
        )


def _is_long_running(response: Any, body: Mapping[str, Any]) -> bool:
    """Return whether an operation is still in progress. The poller would ask once more if not."""
    headers = response.http_response.headers
    if "Azure-AsyncOperation" in headers or "Location" in headers:
        return True
    return not has_terminal_state(body)


def _parse_body(response: Any) -> Any:
    return parse_json(response.http_response)


def _ignore_waiting() -> None:
    """Report nothing."""
