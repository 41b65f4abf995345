"""Errors of Foundry and of the Azure SDKs, as exceptions of this package with a next step."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from azure.core.exceptions import AzureError, HttpResponseError
from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAIError

from cci_plugins.azure.failures import (
    BOUND_HINT,
    FORBIDDEN,
    NOT_FOUND,
    TOO_MANY_REQUESTS,
    UNAUTHORIZED,
    ErrorBody,
    parse_error,
)
from cci_plugins.azure.transport import STEP_SECONDS, limit_azure_time
from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    FoundryError,
    ProtocolError,
    ProvisioningError,
)

OWNER = "Foundry Owner (formerly Azure AI Owner)"
USER = "Foundry User (formerly Azure AI User)"
_AUTH_STATUSES = {UNAUTHORIZED, FORBIDDEN}
_MAY_HAVE_RUN = "code may have run, so it was not sent again"
_TOOL = re.compile(r"\bmcp\b|remote server|\btool_user_error\b", re.IGNORECASE)


@contextmanager
def translate_management_errors(step: str, *, role: str) -> Generator[None]:
    """Translate exceptions of the Azure SDKs into exceptions of this package.

    Args:
        step: The step for error messages, in words.
        role: The role that the step needs.

    Raises:
        AuthenticationError: The role is missing.
        ProvisioningError: Azure refused the request, or cannot be reached.
    """
    try:
        with limit_azure_time(STEP_SECONDS):
            yield
    except ProtocolError as error:
        raise ProvisioningError(f"{step}: {error}", hint=BOUND_HINT, step=step) from None
    except HttpResponseError as error:
        raise _build_management_error(step, role, error) from None
    except AzureError as error:
        raise ProvisioningError(
            f"{step}: Azure cannot be reached ({type(error).__name__})",
            hint="check the address and the network, and run it again",
            step=step,
        ) from None


@contextmanager
def translate_run_errors() -> Generator[None]:
    """Translate exceptions of the OpenAI client into exceptions of this package.

    Raises:
        AuthenticationError: A role is missing.
        ConfigurationError: The agent does not exist.
        FoundryError: The agent failed, or did not answer.
    """
    try:
        yield
    except ProtocolError as error:
        raise _build_bound_error(error) from None
    except APITimeoutError:
        raise build_run_timeout_error() from None
    except APIStatusError as error:
        body = error.body if isinstance(error.body, Mapping) else {}
        found = {"code": error.code or "", "message": body.get("message") or error.message}
        raise _build_run_error(error.status_code, parse_error(found)) from None
    except APIConnectionError as error:
        if isinstance(error.__cause__, ProtocolError):
            raise _build_bound_error(error.__cause__) from None
        kind = type(error.__cause__ or error).__name__
        raise FoundryError(
            f"the connection to Foundry failed ({kind}); {_MAY_HAVE_RUN}",
            hint="check FOUNDRY_PROJECT_ENDPOINT and the network",
        ) from None
    except OpenAIError as error:
        raise FoundryError(f"Foundry's answer is invalid ({type(error).__name__})") from None


def build_run_timeout_error() -> FoundryError:
    """Build the exception for an agent whose answer takes too long."""
    return FoundryError(
        f"the agent did not answer in time; {_MAY_HAVE_RUN}", hint="pass a longer timeout to run()"
    )


def build_response_error(error: Mapping[str, Any]) -> CodeInterpreterError:
    """Build the exception for a response with an error of its own, `{"code", "message"}`."""
    return _build_run_error(0, parse_error(error))


def _build_bound_error(error: ProtocolError) -> FoundryError:
    """Build the exception for an answer that was not read to its end."""
    return FoundryError(f"{error}; {_MAY_HAVE_RUN}", hint=BOUND_HINT)


def _build_management_error(step: str, role: str, error: HttpResponseError) -> CodeInterpreterError:
    status = error.status_code or 0
    code, text = parse_error(_read_body(error))
    message = f"{step}: {text or error.reason or 'no answer'}"
    if status in _AUTH_STATUSES:
        return AuthenticationError(message, hint=f"assign the role {role}; or sign in: az login")
    hint = "fix the cause and run the same command again"
    if status == NOT_FOUND:
        hint = "check the project's resource id or endpoint"
    elif status == TOO_MANY_REQUESTS:
        hint = "Azure throttles this subscription: try again later"
    return ProvisioningError(message, hint=hint, code=code, step=step)


def _build_run_error(status: int, body: ErrorBody) -> CodeInterpreterError:
    code, text = body
    message = f"the agent failed: {text}"
    if _TOOL.search(message):
        return FoundryError(
            message,
            hint="Foundry could not use the pool; update its key: cci foundry connect. Behind a "
            "toolbox, assign the role Foundry User to the agent's identity",
            code=code,
        )
    if status in _AUTH_STATUSES:
        return AuthenticationError(message, hint=f"assign the role {USER}; or sign in: az login")
    if status == NOT_FOUND:
        return ConfigurationError(
            message, hint="create the agent, and check the project's endpoint"
        )
    if status == TOO_MANY_REQUESTS:
        hint = "the model is at its limit: try again later, or raise its quota"
        return FoundryError(message, hint=hint, code=code, retryable=True)
    return FoundryError(message, code=code)


def _read_body(error: HttpResponseError) -> Any:
    try:
        return json.loads(error.response.text()) if error.response is not None else None
    except (ValueError, AttributeError):
        return None
