"""Values of `--env` and of other options of the form NAME=VALUE."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from cci_plugins.common.environment import MIN_SECRET_CHARACTERS, Secret
from cci_plugins.common.settings import Settings
from cci_plugins.errors import ConfigurationError

from . import console

SessionEnvOption = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="NAME[=VALUE]",
        help="Environment variable for the code. Without =VALUE, the value comes from this "
        "command's environment, and output does not show it. The code can read it.",
    ),
]


def split_pair(text: str, flag: str) -> tuple[str, str | None]:
    """Return the name and the value of an option. The value is None without an equals sign.

    Args:
        text: What was given.
        flag: Name of the option, for the error.

    Raises:
        ConfigurationError: The name is empty. The message has no value.
    """
    name, equals, value = text.partition("=")
    if not name:
        raise ConfigurationError(
            f"{flag} {'=...' if equals else repr('')} has no name", hint=f"write {flag} NAME=VALUE"
        )
    return name, value if equals else None


def parse_pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    """Return the values of a repeated option by their names.

    Args:
        texts: What was given, each as NAME=VALUE.
        flag: Name of the option, for the error.

    Raises:
        ConfigurationError: A name or a value is missing.
    """
    pairs = {}
    for text in texts:
        name, value = split_pair(text, flag)
        if value is None:
            raise ConfigurationError(
                f"invalid {flag.strip('-')} {text!r}", hint=f"write {flag} NAME=VALUE"
            )
        pairs[name] = value
    return pairs


def parse_session_variables(texts: Sequence[str]) -> dict[str, str | Secret]:
    """Return the variables of `--env`. Those given by name alone are secrets.

    Args:
        texts: What was given, each as NAME=VALUE or NAME.

    Raises:
        ConfigurationError: A name is empty, or the environment lacks a variable.
    """
    variables: dict[str, str | Secret] = {}
    for text in texts:
        name, value = split_pair(text, "--env")
        variables[name] = _read_variable(name) if value is None else value
    return variables


def _read_variable(name: str) -> str | Secret:
    """Return a variable of this command's environment."""
    value = os.environ.get(name)
    if value is None:
        raise ConfigurationError(
            f"--env {name} has no value: this command's environment has no such variable",
            hint=f"set the variable {name}, or write --env {name}=VALUE",
        )
    if len(value) >= MIN_SECRET_CHARACTERS:
        return Secret(value)
    if value:
        console.print_warning(
            f"the value of {name} has fewer than {MIN_SECRET_CHARACTERS} characters, so output "
            "can show it"
        )
    return value


def get_remote_variables(settings: Settings) -> dict[str, str]:
    """Return `CCI_SESSION_ENV_*` for the sessions of a pool that is not the embedded one.

    The embedded pool gives them to its sessions itself.
    """
    return {} if settings.chosen_pool == "local" else settings.session_environment
