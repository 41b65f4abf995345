"""The `.env` file: what is in it stays, nobody else may read it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cci_plugins.errors import ConfigurationError

_LINE = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*?)\s*$")
_MODE = 0o600


def write_env(path: Path, values: Mapping[str, str], *, replace: bool = False) -> list[str]:
    """Put variables into a file; as a whole or not at all.

    Args:
        path: The file, made when it is not there.
        values: The variables. They are not quoted, so they hold no spaces or quotes.
        replace: Whether they replace what the file says already.

    Returns:
        Names that the file sets to something else, and that were left so.

    Raises:
        ConfigurationError: The file cannot be read or written.
    """
    try:
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        text, kept = _merge(old, values, replace=replace)
        if text != old or (path.stat().st_mode & 0o777) != _MODE:
            _write(path, text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be written ({type(error).__name__})",
            hint="name another file by --env-file",
        ) from None
    return kept


def _merge(old: str, values: Mapping[str, str], *, replace: bool) -> tuple[str, list[str]]:
    missing, kept, lines = dict(values), [], []
    for line in old.splitlines():
        match = _LINE.match(line)
        name = match[1] if match else ""
        if match is None or name not in values:
            lines.append(line)
            continue
        missing.pop(name, None)
        given = match[2].strip("'\"")
        if given and given != values[name] and not replace:
            kept.append(name)
            lines.append(line)
        else:
            lines.append(line if given == values[name] else f"{name}={values[name]}")
    lines += [f"{name}={value}" for name, value in missing.items()]
    return "\n".join([*lines, ""]), kept


def _write(path: Path, text: str) -> None:
    path = path.resolve()  # a link stays one
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), _MODE)
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
