"""What must never be seen: signatures, keys and tokens, and how they are taken out.

Two kinds of secret are recognised: those that something announces (`sig=`, `AccountKey=`,
`x-ms-apikey:`, `Authorization: Bearer`, the head of a JWT) in the spellings of URLs, JSON and
HTML, and those that were registered with `know`, also URL-encoded, base64-encoded and escaped.
A secret that code takes apart (reversed, spelt letter by letter) is not recognised: this keeps
secrets out of sight, it does not keep them from code that holds them.
"""

from __future__ import annotations

from .errors import redact_exception
from .known import forget, know
from .records import RedactingFilter, install
from .scanner import REDACTED
from .stream import Redactor, redact
from .values import redact_value

__all__ = [
    "REDACTED",
    "RedactingFilter",
    "Redactor",
    "forget",
    "install",
    "know",
    "redact",
    "redact_exception",
    "redact_value",
]
