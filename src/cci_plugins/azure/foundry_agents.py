"""Names of the agents in a Foundry project, from the project's own API.

The request is made with azure-core alone, so that `cci provision down` needs no further package
before it removes a project.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio

from cci_plugins.common.azure_hosts import check_sign_in_host
from cci_plugins.errors import ConfigurationError, ProtocolError

from .credentials import CachedCredential
from .failures import BOUND_HINT, ArmError, build_error
from .options import Azure

try:
    from azure.core import AsyncPipelineClient
    from azure.core.exceptions import AzureError
    from azure.core.pipeline import policies
    from azure.core.rest import HttpRequest

    from .transport import STEP_SECONDS, build_connection_options, limit_azure_time
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"reading a project's agents needs {missing.name}", hint='pip install "cci-plugins[azure]"'
    ) from missing

_SCOPE = "https://ai.azure.com/.default"
_API_VERSION = "v1"
_STEP = "Foundry agents"
_FIRST_ERROR_STATUS = 400
_PAGE, _MOST_PAGES = 100, 20


async def list_agents(endpoint: str, azure: Azure) -> list[str]:
    """Return the names of a project's agents.

    Args:
        endpoint: Endpoint of the project.
        azure: Sign-in, and certificates to trust.

    Raises:
        ProvisioningError: Azure refused the request, or cannot be reached.
        AuthenticationError: The sign-in failed.
        ConfigurationError: The endpoint is not one of Azure's own.
    """
    credential = CachedCredential.wrap(azure.credential)
    if credential.is_default:
        check_sign_in_host(endpoint, "foundry")
    client: Any = AsyncPipelineClient(
        endpoint,
        policies=[
            policies.UserAgentPolicy("cci-plugins"),
            policies.ProxyPolicy(),
            policies.AsyncRetryPolicy(),
            policies.AsyncBearerTokenCredentialPolicy(credential, _SCOPE),
        ],
        **build_connection_options(endpoint, azure.ca),
    )
    try:
        with limit_azure_time(STEP_SECONDS):
            return await _read_pages(client, endpoint)
    except ProtocolError as error:
        raise ArmError(f"{_STEP}: {error}", hint=BOUND_HINT, step=_STEP) from None
    except AzureError as error:
        raise ArmError(
            f"{_STEP}: the project cannot be reached ({type(error).__name__})", step=_STEP
        ) from None
    finally:
        with anyio.CancelScope(shield=True):
            await client.close()


async def _read_pages(client: Any, endpoint: str) -> list[str]:
    names: list[str] = []
    query: dict[str, str | int] = {"api-version": _API_VERSION, "limit": _PAGE}
    for _ in range(_MOST_PAGES):
        request = HttpRequest("GET", f"{endpoint.rstrip('/')}/agents", params=query)
        response = await client.send_request(request)
        body = _parse(response)
        if response.status_code >= _FIRST_ERROR_STATUS:
            raise build_error(_STEP, response.status_code, body)
        found = body.get("data") or body.get("value") or []
        items = [one for one in found if isinstance(one, Mapping)]
        names += [str(one.get("name") or one.get("id")) for one in items]
        if not (body.get("has_more") and body.get("last_id") and items):
            break
        query = {**query, "after": str(body["last_id"])}
    return names


def _parse(response: Any) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, Mapping) else {}
