"""The file that settings are read from besides the environment: `./.env`, or one that is named.

Everyone who can write into the current folder can write `./.env`: the author of a repository that
was cloned, or of a workspace that was opened. So a file that nobody named is data from a stranger.
`Settings` refuses some variables of it (`file_trust`). Its values cannot contain the environment's:
`${NAME}` would send a secret of the environment to an endpoint of the file. A file that the user
named is trusted like the environment.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values
from dotenv.variables import Variable, parse_variables

from cci_plugins.errors import ConfigurationError

DEFAULT_NAME = ".env"
MAX_BYTES = 256 * 1024  # of a file that nobody named


@dataclass(frozen=True, slots=True)
class EnvFile:
    """The variables of a file. Case does not matter in names, as in the environment's settings.

    Attributes:
        name: Path of the file, as it was named.
        is_named: Whether the user named it.
        values: Its variables, by name in upper case.
        borrowed: Variables whose values refer to the environment, each with the name there. Empty
            for a file that the user named.
    """

    name: str = DEFAULT_NAME
    is_named: bool = False
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    borrowed: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The file's name for messages."""
        return self.name if self.is_named else f"./{self.name}"


def read_env_file(name: str | os.PathLike[str] | None) -> EnvFile:
    """Read the file that the user named, or else `.env` in the current folder if it exists.

    Raises:
        ConfigurationError: The file cannot be read.
    """
    chosen = DEFAULT_NAME if name is None else os.fspath(name)
    try:
        if name is None and not Path(chosen).is_file():  # a pipe of that name would block
            return EnvFile()
        data = _read_bounded(chosen) if name is None else Path(chosen).read_bytes()
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig").read()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the name
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(
            f"cannot read the settings of {chosen!a}: {reason}",
            hint="correct --env-file or CCI_ENV_FILE, or the file",
        ) from None
    if name is not None:
        found = dotenv_values(stream=io.StringIO(text))
        return EnvFile(chosen, is_named=True, values=_to_upper(found))
    return _read_untrusted(dotenv_values(stream=io.StringIO(text), interpolate=False))


def _read_bounded(path: str) -> bytes:
    """Read a small file, without waiting for one that never ends, such as `/proc/kmsg`.

    Raises:
        OSError: It is too large or cannot be read.
    """
    data = b""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        while chunk := os.read(file, MAX_BYTES):
            data += chunk
            if len(data) > MAX_BYTES:
                raise OSError(errno.EFBIG, f"it is larger than {MAX_BYTES:,} bytes")
    finally:
        os.close(file)
    return data


def _read_untrusted(raw: Mapping[str, str | None]) -> EnvFile:
    """Build a file's variables without values of the environment."""
    values: dict[str, str | None] = {}
    borrowed: dict[str, str] = {}
    for name, value in raw.items():
        atoms = list(parse_variables(value or ""))
        for other in (atom.name for atom in atoms if isinstance(atom, Variable)):
            if other not in values and other in os.environ:
                borrowed[name.upper()] = other
        values[name] = None if value is None else "".join(atom.resolve(values) for atom in atoms)
    return EnvFile(values=_to_upper(values), borrowed=borrowed)


def _to_upper(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name.upper(): value for name, value in values.items() if value is not None}
