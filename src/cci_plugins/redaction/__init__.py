"""Redaction of signatures, keys and tokens in text, values, logs and exceptions.

Two kinds of secret are recognised. The first follows an announcement: `sig=`, `AccountKey=`,
`x-ms-apikey:`, `Authorization: Bearer` or the head of a JWT, in the spellings of URLs, JSON and
HTML. The second was registered with `know`. It is found as it is and also URL-encoded,
base64-encoded and escaped.

Redaction is best effort. A secret that code takes apart (reversed, spelt letter by letter) is
not recognised. Redaction hides secrets from readers, not from code that holds them.
"""

from __future__ import annotations

from .errors import redact_exception
from .records import RedactingFilter, install
from .registry import forget, know
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
