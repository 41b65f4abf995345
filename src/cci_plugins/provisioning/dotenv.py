"""Writer of the `.env` file. It keeps what the file has, and nobody else may read it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import dotenv

from cci_plugins.errors import ConfigurationError

_MODE = 0o600


def write_env(path: Path, values: Mapping[str, str], *, replace: bool = False) -> list[str]:
    """Write variables into a file, all of them or none.

    Comments, order, quotes, line ends and other variables stay as they are.

    Args:
        path: The file. It is created if it is missing. A link stays a link.
        values: The variables. They are not quoted, so they must not have spaces or quotes.
        replace: Whether to replace values that the file already has.

    Returns:
        Names that the file sets to another value, and that were kept.

    Raises:
        ConfigurationError: The file cannot be read or written.
    """
    try:
        old = path.read_bytes() if path.exists() else b""
        current = dotenv.dotenv_values(path, interpolate=False) if old else {}
        other = [name for name, value in values.items() if current.get(name) not in (value, None)]
        kept = [name for name in other if current[name] and not replace]
        changes = {
            name: value
            for name, value in values.items()
            if current.get(name) != value and name not in kept
        }
        if changes or not path.exists() or (path.stat().st_mode & 0o777) != _MODE:
            _replace_file(path.resolve(), old, changes)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be written ({type(error).__name__})",
            hint="name another file by --env-file",
        ) from None
    return kept


def remove_env(path: Path, values: Mapping[str, str | None]) -> list[str]:
    """Remove variables from a file, where they still have the given values.

    Args:
        path: The file. A missing file stays missing.
        values: The variables. None stands for any value.

    Returns:
        Names of the variables that were removed.

    Raises:
        ConfigurationError: The file cannot be read or written.
    """
    try:
        if not path.exists():
            return []
        current = dotenv.dotenv_values(path, interpolate=False)
        removed = [
            name
            for name, value in values.items()
            if current.get(name) and (value is None or _is_same(current[name], value))
        ]
        if removed:
            _replace_file(path.resolve(), path.read_bytes(), dict.fromkeys(removed))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be written ({type(error).__name__})",
            hint="name another file by --env-file",
        ) from None
    return removed


def _is_same(value: str | None, other: str) -> bool:
    """Return whether two values are equal. Azure changes the case of ids and addresses."""
    return value is not None and value.rstrip("/").lower() == other.rstrip("/").lower()


def _replace_file(path: Path, old: bytes, changes: Mapping[str, str | None]) -> None:
    """Apply changes to a copy in the same folder, then replace the file by the copy.

    A change to None removes the variable.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    copy = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(old)
        for variable, value in changes.items():
            if value is None:
                dotenv.unset_key(copy, variable)
            else:
                dotenv.set_key(copy, variable, value, quote_mode="never")
        if b"\r\n" in old:  # python-dotenv reads any line end and writes \n
            text = copy.read_bytes().replace(b"\r\n", b"\n")
            copy.write_bytes(text.replace(b"\n", b"\r\n"))
        copy.chmod(_MODE)
        copy.replace(path)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
