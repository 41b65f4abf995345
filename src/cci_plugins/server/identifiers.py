"""Session identifiers as clients may choose them."""

from __future__ import annotations

from cci_plugins.mcp_client.failures import BAD_IDENTIFIER

MIN_LENGTH, MAX_LENGTH = 4, 128
CODE = BAD_IDENTIFIER


def check_identifier(identifier: object) -> str | None:
    """What is wrong with an identifier, in one sentence; None when nothing is.

    The rule is the data plane's: 4 to 128 characters of printable ASCII without spaces.
    """
    if not isinstance(identifier, str) or not MIN_LENGTH <= len(identifier) <= MAX_LENGTH:
        return f"A session identifier has {MIN_LENGTH} to {MAX_LENGTH} characters."
    if not identifier.isascii() or not identifier.isprintable() or " " in identifier:
        return "A session identifier has letters, digits and signs of ASCII, without spaces."
    return None
