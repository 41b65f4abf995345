"""Environment variables of a session, and the values among them that output must not show."""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from cci_plugins.errors import ConfigurationError
from cci_plugins.redaction import forget, know

MAX_ENVIRONMENT_BYTES = 64 * 1024  # of all names and values, which travel with each run
MIN_SECRET_CHARACTERS = 8  # a shorter value would hide ordinary words
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OWN_NAMES = ("SESSION_FOLDER",)


class SecretValue(Protocol):
    """A value that its `repr` hides, such as `Secret` or pydantic's `SecretStr`."""

    def get_secret_value(self) -> str:
        """Return the value."""
        ...


class Secret:
    """A value that output, logs and errors do not show, and that code can read.

    Args:
        value: The value, with at least 8 characters.

    Example:
        ```python
        from cci_plugins import Secret

        assert repr(Secret("correct horse")) == "Secret('***')"
        ```
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


Env: TypeAlias = Mapping[str, "str | SecretValue"]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class SessionEnvironment:
    """Checked variables of a session.

    While this object lives, redaction knows its secrets.

    Attributes:
        values: The variables by name.
        secrets: Names of the variables with a secret.
    """

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: frozenset[str] = frozenset()

    def merge(self, other: SessionEnvironment) -> SessionEnvironment:
        """Return these variables, with those of `other` in their place where both have one."""
        secrets = (self.secrets - set(other.values)) | other.secrets
        return _register(SessionEnvironment({**self.values, **other.values}, secrets))


def build_session_environment(env: Env) -> SessionEnvironment:
    """Check variables, and register their secrets for redaction.

    Args:
        env: The variables by name.

    Raises:
        ConfigurationError: A name or a value cannot be used. The message has no value.
    """
    if not isinstance(env, Mapping):
        raise ConfigurationError(
            f"env must be a mapping of names to values, not {type(env).__name__}",
            hint='pass a dict such as {"TZ": "Europe/Berlin"}',
        )
    values: dict[str, str] = {}
    secrets = set()
    for name, given in env.items():
        _check_name(name)
        is_secret = not isinstance(given, str) and hasattr(given, "get_secret_value")
        value = given if isinstance(given, str) or not is_secret else given.get_secret_value()
        values[name] = _check_value(name, value)
        if is_secret:
            secrets.add(name)
            _check_secret(name, values[name])
    size = sum(len(text.encode()) for item in values.items() for text in item)
    if size > MAX_ENVIRONMENT_BYTES:
        raise ConfigurationError(
            f"the variables of env have {size:,} bytes, "
            f"and at most {MAX_ENVIRONMENT_BYTES:,} can be given",
            hint="upload large values as a file",
        )
    return _register(SessionEnvironment(values, frozenset(secrets)))


def _register(environment: SessionEnvironment) -> SessionEnvironment:
    for name in environment.secrets:
        know(environment.values[name])
        weakref.finalize(environment, forget, environment.values[name]).atexit = False
    return environment


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"env has an invalid name of a variable ({str(name)[:100]!r})",
            hint="use letters, digits and underscores, and no digit first",
        )
    if name in _OWN_NAMES:
        raise ConfigurationError(
            f"env cannot set {name}: each session sets it to the folder of its files",
            hint="choose another name",
        )


def _check_value(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(
            f"the value of {name} in env must be text or a Secret, not {type(value).__name__}",
            hint=f'write env={{"{name}": str(...)}}',
        )
    try:
        is_valid = "\0" not in value and value.encode() is not None
    except UnicodeEncodeError:
        is_valid = False
    if not is_valid:
        raise ConfigurationError(
            f"the value of {name} in env has a character that no variable can have",
            hint="remove null characters and lone surrogates",
        )
    return value


def _check_secret(name: str, value: str) -> None:
    if len(value) < MIN_SECRET_CHARACTERS:
        raise ConfigurationError(
            f"the secret {name} in env is too short to be hidden in output "
            f"({len(value)} characters, at least {MIN_SECRET_CHARACTERS} are needed)",
            hint="pass it as a plain value, or choose a longer one",
        )
