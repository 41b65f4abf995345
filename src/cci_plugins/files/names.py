"""Names a file may bear in a session."""

from __future__ import annotations

import mimetypes

from cci_plugins.errors import UnsafeNameError

MAX_NAME_BYTES = 1024
MAX_PART_BYTES = 255


def safe_name(name: str) -> str:
    """Return a name that stays below the session's folder, unchanged.

    Args:
        name: A relative path with `/` between its parts.

    Raises:
        UnsafeNameError: It is empty, absolute, too long, or has a part such as `..`, a
            backslash, a control character or a lone surrogate.
    """
    parts = name.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError as error:
        raise UnsafeNameError(f"{name!r} is not a valid file name") from error
    safe = (
        sum(sizes) <= MAX_NAME_BYTES
        and max(sizes) <= MAX_PART_BYTES
        and not any(part in {"", ".", ".."} for part in parts)
        and not any(char == "\\" or ord(char) < 32 or ord(char) == 127 for char in name)  # noqa: PLR2004
    )
    if not safe:
        raise UnsafeNameError(
            f"{name[:200]!r} is not a safe file name",
            hint="use a plain name, or a relative path without '..'",
        )
    return name


def media_type(name: str) -> str:
    """Guess a MIME type from a name."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
