"""Rules for CPU, memory, variables and images of a custom pool's containers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from cci_plugins.errors import ConfigurationError

REPOSITORY = "cci-session"
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*Gi", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ID = r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers"
IDS = {
    "environment": (
        re.compile(rf"{_ID}/Microsoft\.App/managedEnvironments/[^/]+", re.IGNORECASE),
        "az containerapp env show --query id",
    ),
    "subnet": (
        re.compile(rf"{_ID}/Microsoft\.Network/virtualNetworks/[^/]+/subnets/[^/]+", re.IGNORECASE),
        "az network vnet subnet show --query id",
    ),
    "registry_identity": (
        re.compile(
            rf"{_ID}/Microsoft\.ManagedIdentity/userAssignedIdentities/[^/]+", re.IGNORECASE
        ),
        "az identity show --query id",
    ),
    "foundry_account": (
        re.compile(rf"{_ID}/Microsoft\.CognitiveServices/accounts/[^/]+", re.IGNORECASE),
        "az cognitiveservices account show --query id",
    ),
    "foundry_project": (
        re.compile(
            rf"{_ID}/Microsoft\.CognitiveServices/accounts/[^/]+/projects/[^/]+", re.IGNORECASE
        ),
        "az cognitiveservices account project show --query id",
    ),
}
# Azure's sample for custom pools offers 1 to 16 CPUs with twice as many GiB.
_USUAL_CPU = range(1, 17)
# The pairs of the Consumption profile: steps of a quarter CPU, with twice as many GiB
# (learn.microsoft.com, Container Apps, containers, "Allocations").
_GATEWAY_STEP, _GATEWAY_MAX = 0.25, 4.0


def normalize_memory(text: str, flag: str) -> str:
    """Return an amount of memory as Azure writes it, such as `2Gi`.

    Args:
        text: The amount.
        flag: The option that it is from.

    Raises:
        ConfigurationError: It is not an amount in GiB.
    """
    match = _MEMORY.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise ConfigurationError(
            f"the memory {text!r} is invalid: it must be a number of GiB, such as 2Gi",
            hint=f"correct {flag}",
        )
    return f"{float(match[1]):g}Gi"


def parse_gibibytes(memory: str) -> float:
    """Return the number in an amount such as `2Gi`."""
    return float(memory.removesuffix("Gi"))


def check_gateway_pair(cpu: float, memory: str) -> None:
    """Refuse CPU and memory that Azure does not combine for a container app.

    Raises:
        ConfigurationError: It does not.
    """
    is_step = (cpu / _GATEWAY_STEP).is_integer() and _GATEWAY_STEP <= cpu <= _GATEWAY_MAX
    if not is_step or parse_gibibytes(memory) != 2 * cpu:
        raise ConfigurationError(
            f"Azure does not offer a gateway with {cpu:g} CPU and {memory}: it takes 0.25 to 4 "
            "CPUs in steps of 0.25, each with twice as many Gi",
            hint="correct --gateway-cpu and --gateway-memory, such as 0.5 with 1Gi",
        )


def describe_unusual_pair(cpu: float, memory: str) -> str | None:
    """Return a warning for CPU and memory that few pools have, or None."""
    if cpu in _USUAL_CPU and parse_gibibytes(memory) == 2 * cpu:
        return None
    return (
        f"{cpu:g} CPU with {memory} is unusual for a session pool: Azure's sample has 1 to 16 "
        "CPUs, each with twice as many Gi. Azure may refuse it"
    )


def check_variables(env: Mapping[str, str], secrets: Mapping[str, str | None]) -> None:
    """Refuse names that a container cannot have, or that exclude each other.

    Raises:
        ConfigurationError: There is such a name.
    """
    for name in (*env, *secrets):
        if not _VARIABLE.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} is not the name of a variable",
                hint="use letters, digits and _, and no digit first",
            )
    for name in env:
        if name in secrets:
            raise ConfigurationError(
                f"{name} is both --env and --secret", hint="remove one of the two"
            )
    counts = Counter(build_secret_name(name) for name in secrets)
    twice = [name for name in secrets if counts[build_secret_name(name)] > 1]
    if twice:
        raise ConfigurationError(
            f"the secrets {', '.join(twice)} would have the same name in Azure, which ignores case",
            hint="rename one of them",
        )


def check_resource_id(name: str, value: str) -> None:
    """Refuse a value that is not the resource id of what an option names.

    Raises:
        ConfigurationError: It is not.
    """
    rule, command = IDS[name]
    if not rule.fullmatch(value):
        flag = f"--{name.replace('_', '-')}"
        raise ConfigurationError(
            f"{flag} {value!r} is not a resource id", hint=f"find it by: {command}"
        )


def build_secret_name(variable: str) -> str:
    """Return the name of a variable's secret in Azure, which allows no `_` and no capitals."""
    return variable.lower().replace("_", "-")


def is_own_image(image: str) -> bool:
    """Return whether an image runs this package's server, by the name of its repository."""
    repository = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return repository == REPOSITORY


def get_registry_server(image: str) -> str:
    """Return the registry of an image, by its host name."""
    server, slash, _ = image.partition("/")
    is_host = bool(slash) and ("." in server or ":" in server)
    return server if is_host else "docker.io"
