"""Errors of Azure: one parser of their bodies, and an exception with a next step for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from cci_plugins.errors import AuthenticationError, CodeInterpreterError, ProvisioningError
from cci_plugins.redaction import REDACTED, redact

UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, TOO_MANY_REQUESTS = 401, 403, 404, 409, 429
SERVER_ERROR = 500

BOUND_HINT = "check the address and the proxy, since Azure sends no such answer; then try again"
SIGN_IN_SENDER = "the sign-in service"  # in messages of `sign_in_transport`
_MAX_LENGTH = 600
# Short secrets too, which the redaction of output skips.
_SECRET = re.compile(r"(?i)\b(?:sig|\w*key|password|token|secret)=[^&;\s\"']+|(?<=bearer )[\w.-]+")
_ACTION = re.compile(r"perform action '([^']+)'")
_SCOPE = re.compile(r"over scope '([^']+)'")

_RBAC = "Role Based Access Control Administrator"
# The refused action, the role that allows it, and where the role is needed. First match wins.
_ROLE_OF_ACTION = (
    ("microsoft.authorization/roleassignments/", _RBAC, "the resource group"),
    ("microsoft.features/", "Contributor", "the subscription"),
    ("/register/action", "Contributor", "the subscription"),
    ("microsoft.resources/subscriptions/resourcegroups/", "Contributor", "the subscription"),
    ("sessionpools/", "Container Apps SessionPools Contributor", "the resource group"),
    ("", "Contributor", "the resource group"),
)
_SUBSCRIPTION = "choose one of: az account list --output table; then --subscription ID"
# The names of a deployment depend on its suffix, so another region alone meets the old resources.
_OTHER_REGION = "use another region, with names of its own: add --location REGION --suffix OTHER"
_REGISTER = (
    "az feature register --namespace Microsoft.App --name SessionPoolsSupportMCP; "
    "then az provider register --namespace Microsoft.App --wait"
)
_HINTS = {
    "subscriptionnotfound": _SUBSCRIPTION,
    "invalidsubscriptionid": _SUBSCRIPTION,
    "readonlydisabledsubscription": "enable the subscription, or choose another by --subscription",
    "locationnotavailableforresourcetype": _OTHER_REGION,
    "locationnotavailable": _OTHER_REGION,
    "invalidresourcelocation": "it exists in another region: use that --location, or a --suffix",
    "featurenotregistered": f"ask the subscription's owner to run: {_REGISTER}",
    "sessiontypenotsupportedinregion": _OTHER_REGION,
    "unmatchedprincipaltype": "name the type: --principal-type ServicePrincipal",
    "storageaccountalreadytaken": "the name is taken somewhere in Azure: choose a --suffix",
    "alreadyinuse": "the name is taken somewhere in Azure: choose a --suffix",
    "conflict": "another change is in progress: run the same command again in a minute",
    "requestdisallowedbypolicy": "a policy of the subscription forbids it: ask the policy's owner",
    "scopelocked": "remove the lock: az lock list --resource-group GROUP; az lock delete --ids ID",
    "missingsubscriptionregistration": "run: az provider register --namespace Microsoft.App --wait",
    "invalidauthenticationtokentenant": "sign in to the subscription's tenant: "
    "az login --tenant TENANT",
    "expiredauthenticationtoken": "sign in again: az login",
    "toomanyrequests": "Azure throttles this subscription: run the same command again later",
}


class ArmError(ProvisioningError):
    """A request to Azure Resource Manager that failed.

    Attributes:
        status: The HTTP status, or 0 without an answer.
    """

    status = 0


class ErrorBody(NamedTuple):
    """The parts of an error body of Azure.

    Attributes:
        code: Azure's code, or empty.
        message: Azure's message without secrets, followed by the code. Empty for other bodies.
    """

    code: str
    message: str


def parse_error(body: object) -> ErrorBody:
    """Read an error body: `{"error": {"code", "message", "details"}}`, or the inner object.

    A detail often has the cause, so its message is added and its code is preferred.
    """
    error = body.get("error", body) if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return ErrorBody("", "")
    code, message = str(error.get("code") or ""), str(error.get("message") or "")
    for detail in _list_details(error):
        more = str(detail.get("message") or "")
        if more and more not in message:
            message = f"{message} {more}".strip()
            code = str(detail.get("code") or code)
    return ErrorBody(code, clean(f"{message} ({code})".strip() if code else message))


def build_error(
    step: str, status: int, body: object, *, manual_command: str = ""
) -> CodeInterpreterError:
    """Build the exception for an HTTP status that is not a success.

    Args:
        step: The step that failed, in words.
        status: The HTTP status.
        body: The decoded JSON body, or None.
        manual_command: A command for the same step, which somebody with more rights can run.
    """
    code, message = parse_error(body)
    text = f"{step}: {message or f'Azure answered {status}'}"
    if status == UNAUTHORIZED:
        return AuthenticationError(text, hint=_HINTS.get(code.lower(), "sign in: az login"))
    is_role_missing = code.lower() in {"authorizationfailed", "linkedauthorizationfailed"}
    if status == FORBIDDEN and is_role_missing:
        hint = _build_role_hint(message, manual_command)
    else:
        hint = _choose_hint(code)
    error = ArmError(text, hint=hint, code=code, step=step)
    error.status = status
    return error


def choose_sign_in_reason(text: str) -> str:
    """Return the line with the reason of a failed sign-in.

    It is the first line, or the line about an answer that `sign_in_transport` stopped.

    Args:
        text: The text of the sign-in's exception, with a line for each way to sign in.
    """
    lines = text.strip().splitlines() or [""]
    return clean(next((line for line in lines if SIGN_IN_SENDER in line), lines[0]))


def clean(text: str) -> str:
    """Return a text of Azure's on one line, without secrets, and cut to 600 characters."""
    text = _SECRET.sub(REDACTED, redact(" ".join(text.split())))
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}..."


def _list_details(error: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    details = error.get("details")
    found = details if isinstance(details, list) else []
    return [detail for detail in found if isinstance(detail, Mapping)]


def _choose_hint(code: str) -> str:
    low = code.lower()
    if any(part in low for part in ("quota", "capacity", "maxnumberof")):
        return f"{_OTHER_REGION}; or ask Azure for more quota"
    return _HINTS.get(low, "fix the cause and run the same command again; it continues from here")


def _build_role_hint(message: str, manual_command: str) -> str:
    action = _ACTION.search(message)
    scope = _SCOPE.search(message)
    name = "" if action is None else action[1].lower()
    role, where = next((role, where) for part, role, where in _ROLE_OF_ACTION if part in name)
    at = where if scope is None else f"{where} (refused on {scope[1]})"
    manual_hint = f", or ask somebody to run: {manual_command}" if manual_command else ""
    return f"you need the role {role} on {at}{manual_hint}"
