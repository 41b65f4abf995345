"""Check of the code of a run before anything is started."""

from __future__ import annotations

from cci_plugins.errors import ConfigurationError


def check_code(code: str) -> None:
    """Check that code can be encoded as UTF-8.

    Raises:
        ConfigurationError: It has a lone surrogate, which is half of a character.
    """
    if code.isascii():
        return
    try:
        code.encode()
    except UnicodeEncodeError as error:
        line = code.count("\n", 0, error.start) + 1
        raise ConfigurationError(
            f"the code has the lone surrogate {code[error.start]!a} in line {line}, "
            "so nothing was run",
            hint="write the whole character, or an escape sequence in a string",
        ) from None
