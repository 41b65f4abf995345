"""What Azure's refusals mean, and what to do about each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cci_plugins.errors import AuthenticationError, CodeInterpreterError, ProvisioningError
from cci_plugins.redaction import REDACTED, redact

_MAX_LENGTH = 600
# Short ones too, which redaction lets pass in what code prints.
_SECRET = re.compile(r"(?i)\b(?:sig|\w*key|password|token|secret)=[^&;\s\"']+|(?<=bearer )[\w.-]+")
_ACTION = re.compile(r"perform action '([^']+)'")
_SCOPE = re.compile(r"over scope '([^']+)'")

_RBAC = "Role Based Access Control Administrator"
# By the action that was refused: the role that has it, and where it is needed.
_ROLE_OF_ACTION = (
    ("microsoft.authorization/roleassignments/", _RBAC, "the resource group"),
    ("microsoft.features/", "Contributor", "the subscription"),
    ("/register/action", "Contributor", "the subscription"),
    ("microsoft.resources/subscriptions/resourcegroups/", "Contributor", "the subscription"),
    ("sessionpools/", "Container Apps SessionPools Contributor", "the resource group"),
    ("", "Contributor", "the resource group"),
)
_SUBSCRIPTION = "choose one of: az account list --output table; then --subscription ID"
_HINTS = {
    "subscriptionnotfound": _SUBSCRIPTION,
    "invalidsubscriptionid": _SUBSCRIPTION,
    "readonlydisabledsubscription": "enable the subscription, or choose another by --subscription",
    "locationnotavailableforresourcetype": "choose another region by --location, such as eastus",
    "locationnotavailable": "choose another region by --location, such as eastus",
    "invalidresourcelocation": "it exists in another region: use that --location, or a --suffix",
    "sessiontypenotsupportedinregion": "choose another region by --location, such as eastus",
    "unmatchedprincipaltype": "name what it is: --principal-type ServicePrincipal",
    "storageaccountalreadytaken": "its name is taken somewhere in Azure: choose a --suffix",
    "alreadyinuse": "its name is taken somewhere in Azure: choose a --suffix",
    "conflict": "something else changes it just now: run the same command again in a minute",
    "requestdisallowedbypolicy": "a policy of the subscription forbids it: ask who owns the policy",
    "scopelocked": "remove the lock: az lock list --resource-group GROUP; az lock delete --ids ID",
    "missingsubscriptionregistration": "run: az provider register --namespace Microsoft.App --wait",
    "invalidauthenticationtokentenant": "sign in to the subscription's tenant: "
    "az login --tenant TENANT",
    "expiredauthenticationtoken": "sign in again: az login",
    "toomanyrequests": "Azure throttles this subscription: run the same command again later",
}


def build_error(
    step: str, status: int, body: object, *, register_command: str = ""
) -> CodeInterpreterError:
    """The exception for an answer that is none.

    Args:
        step: What was being done.
        status: The HTTP status.
        body: What was answered.
        register: The command that does the same by hand, where another person may have to.
    """
    code, message = _parse_error(body)
    text = f"{step}: {message or f'Azure answered {status}'}"
    if status == 401:  # noqa: PLR2004 - HTTP
        hint = _HINTS.get(code.lower(), "sign in: az login")
        return AuthenticationError(text, hint=hint)
    if status == 403 and code.lower() in {"authorizationfailed", "linkedauthorizationfailed"}:  # noqa: PLR2004
        return ProvisioningError(
            text, hint=_build_role_hint(message, register_command), code=code, step=step
        )
    return ProvisioningError(text, hint=_choose_hint(code), code=code, step=step)


def clean(text: str) -> str:
    """Text of Azure's as it may be shown: without what looks like a secret, and not endless."""
    text = _SECRET.sub(REDACTED, redact(" ".join(text.split())))
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}..."


def _parse_error(body: object) -> tuple[str, str]:
    """Azure's code and message; details may know more."""
    error = body.get("error", body) if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return "", ""
    code, message = str(error.get("code") or ""), str(error.get("message") or "")
    for detail in _list_details(error):
        more = str(detail.get("message") or "")
        if more and more not in message:
            message = f"{message} {more}".strip()
            code = str(detail.get("code") or code)
    return code, clean(f"{message} ({code})" if code else message)


def _list_details(error: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    details = error.get("details")
    found = details if isinstance(details, list) else []
    return [detail for detail in found if isinstance(detail, Mapping)]


def _choose_hint(code: str) -> str:
    low = code.lower()
    if "quota" in low or "capacity" in low:
        return "choose another region by --location, or ask Azure for more quota"
    return _HINTS.get(low, "correct it and run the same command again; it goes on from here")


def _build_role_hint(message: str, register_command: str) -> str:
    action = _ACTION.search(message)
    scope = _SCOPE.search(message)
    name = "" if action is None else action[1].lower()
    role, where = next((role, where) for part, role, where in _ROLE_OF_ACTION if part in name)
    at = where if scope is None else f"{where} (refused on {scope[1]})"
    manual_hint = f", or have somebody run: {register_command}" if register_command else ""
    return f"you need the role {role} on {at}{manual_hint}"
