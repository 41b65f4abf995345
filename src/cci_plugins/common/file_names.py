"""Names of files in a session: checks, normal form and media type."""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from urllib.parse import unquote

from cci_plugins.errors import UnsafeNameError

SESSION_FOLDER = "/mnt/data/"
MAX_NAME_BYTES = 1024
MAX_PART_BYTES = 255
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])\s*(\..*)?",
    re.IGNORECASE,
)
_DRIVE = re.compile(r"[a-z]:.*", re.IGNORECASE)  # on Windows it would leave the folder
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_BIDI_CONTROLS = re.compile(
    "[\u0080-\u009f\u202a-\u202e\u2066-\u2069]"
)  # with them gpj.exe is displayed as exe.jpg


def strip_folder(name: str) -> str:
    """Return a file's name below the session's folder, also for its whole path there.

    Args:
        name: `data.csv`, or `/mnt/data/data.csv`.

    Raises:
        UnsafeNameError: It is not text.
    """
    if not isinstance(name, str):
        raise UnsafeNameError(
            f"a file name must be a str, not {type(name).__name__}", hint="pass 'data.csv'"
        )
    return name.removeprefix(SESSION_FOLDER) or name


def validate_name(name: str) -> str:
    """Return a name unchanged if it stays below the session's folder.

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


def normalize_new_name(name: str) -> str:
    """Return the name for a new file, safe on every system and with normalized Unicode (NFC).

    Args:
        name: A relative path with `/` between its parts.

    Raises:
        UnsafeNameError: `validate_name` rejects it, a part names a device or drive or ends in a
            dot or space, or a character changes the direction of text.
    """
    name = validate_name(unicodedata.normalize("NFC", name))
    if _BIDI_CONTROLS.search(name):
        raise UnsafeNameError(
            f"{name[:200]!a} is not a safe file name: control characters hide how it reads",
            hint="remove the control characters",
        )
    for part in name.split("/"):
        if _RESERVED.fullmatch(part) or _DRIVE.fullmatch(part) or part.endswith((".", " ")):
            raise UnsafeNameError(
                f"{name[:200]!r} is not a safe file name: some systems reserve it",
                hint="pass another name with name=",
            )
    return name


def escape_name(name: str) -> str:
    """Return a name as people may read it, with undecodable bytes and control characters escaped.

    An escaped name contains a backslash. So `validate_name` rejects it, and it never names
    another file.

    Args:
        name: A name as the session's file system returns it.
    """
    return _UNPRINTABLE.sub(_escape_character, name)


def is_safe_name(name: str) -> bool:
    """Return whether `validate_name` accepts a name."""
    try:
        return bool(validate_name(name))
    except UnsafeNameError:
        return False


def _escape_character(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - a byte that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return ascii(match[0])[1:-1]


def parse_url_file_name(path: str) -> str:
    """Return the file name at the end of a URL's path, or an empty string."""
    return unquote(path.rpartition("/")[2]).rpartition("/")[2]


def guess_media_type(name: str) -> str:
    """Guess a MIME type from a name."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
