"""Logger of the package, which redacts secrets from its records.

It has no handler. Python's last-resort handler therefore prints warnings in a program that has
not set up logging, and a program that has sees each record once.
"""

from __future__ import annotations

import logging

from cci_plugins.redaction import install

logger = logging.getLogger("cci_plugins")
install(logger)


def describe_error(error: BaseException) -> str:
    """Return the text of an error for a log record, with its hint."""
    hint = getattr(error, "hint", None)
    return f"{error}; {hint}" if hint else str(error)
