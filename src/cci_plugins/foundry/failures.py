"""What Azure's refusals mean, as exceptions of this package with the next thing to try."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from azure.core.exceptions import AzureError, HttpResponseError
from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAIError

from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    FoundryError,
    ProvisioningError,
)
from cci_plugins.redaction import redact

OWNER = "Foundry Owner (formerly Azure AI Owner)"
USER = "Foundry User (formerly Azure AI User)"
_AUTH_STATUSES = (401, 403)
_NOT_FOUND, _TOO_MANY = 404, 429
_MAX_LENGTH = 600
_MAY_HAVE_RUN = "code may have run, so it was not sent again"
_TOOL = re.compile(r"\bmcp\b|remote server|\btool_user_error\b", re.IGNORECASE)


@contextmanager
def translate_management_errors(step: str, *, role: str) -> Generator[None]:
    """Turn what the Azure SDKs raise into exceptions of this package.

    Args:
        step: What is being done, in words.
        role: The role that it needs.
    """
    try:
        yield
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
    """Turn what the OpenAI client raises into exceptions of this package."""
    try:
        yield
    except APITimeoutError:
        raise FoundryError(
            f"the agent did not answer in time; {_MAY_HAVE_RUN}", hint="give run() a longer timeout"
        ) from None
    except APIStatusError as error:
        raise _build_run_error(
            error.status_code, _extract_message(error), str(error.code or "")
        ) from None
    except APIConnectionError as error:
        kind = type(error.__cause__ or error).__name__
        raise FoundryError(
            f"the connection to Foundry failed ({kind}); {_MAY_HAVE_RUN}",
            hint="check FOUNDRY_PROJECT_ENDPOINT and the network",
        ) from None
    except OpenAIError as error:
        raise FoundryError(f"Foundry was not understood ({type(error).__name__})") from None


def build_response_error(message: str, code: str) -> CodeInterpreterError:
    """The exception for a response that says itself that it failed."""
    return _build_run_error(0, _sanitize(message), code)


def _build_management_error(step: str, role: str, error: HttpResponseError) -> CodeInterpreterError:
    status = error.status_code or 0
    code = str(getattr(error.error, "code", None) or "")
    text = _sanitize(str(getattr(error.error, "message", None) or error.reason or "no answer"))
    message = f"{step}: {text}" + (f" ({code})" if code else "")
    if status in _AUTH_STATUSES:
        return AuthenticationError(message, hint=f"assign the role {role}; or sign in: az login")
    hint = "correct it and run the same command again"
    if status == _NOT_FOUND:
        hint = "check the project's resource id or endpoint"
    elif status == _TOO_MANY:
        hint = "Azure throttles this subscription: try again later"
    return ProvisioningError(message, hint=hint, code=code, step=step)


def _build_run_error(status: int, text: str, code: str) -> CodeInterpreterError:
    message = f"the agent failed: {text}" + (f" ({code})" if code else "")
    if _TOOL.search(message):
        return FoundryError(
            message,
            hint="Foundry could not use the pool; renew the key it has: cci foundry connect",
            code=code,
        )
    if status in _AUTH_STATUSES:
        return AuthenticationError(message, hint=f"assign the role {USER}; or sign in: az login")
    if status == _NOT_FOUND:
        return ConfigurationError(
            message, hint="create the agent, and check the project's endpoint"
        )
    if status == _TOO_MANY:
        hint = "the model is at its limit: try again later, or raise its quota"
        return FoundryError(message, hint=hint, code=code, retryable=True)
    return FoundryError(message, code=code)


def _extract_message(error: APIStatusError) -> str:
    """Foundry's own words, without what the client puts before them."""
    message = error.body.get("message") if isinstance(error.body, Mapping) else None
    return _sanitize(str(message or error.message))


def _sanitize(text: str) -> str:
    """Text of Azure's as it may be shown: without secrets, on one line, and not endless."""
    text = redact(" ".join(text.split()))
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}..."
