"""Session identifiers as clients may choose them."""

from __future__ import annotations

from cci_plugins.mcp_client.failures import BAD_IDENTIFIER

SHORTEST, LONGEST = 4, 128
CODE = BAD_IDENTIFIER


def fault_of(identifier: object) -> str | None:
    """What is wrong with an identifier, in one sentence; None when nothing is.

    The rule is the data plane's: 4 to 128 characters of printable ASCII without spaces.
    """
    if not isinstance(identifier, str) or not SHORTEST <= len(identifier) <= LONGEST:
        return f"A session identifier has {SHORTEST} to {LONGEST} characters."
    if not identifier.isascii() or not identifier.isprintable() or " " in identifier:
        return "A session identifier has letters, digits and signs of ASCII, without spaces."
    return None
