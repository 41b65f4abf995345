"""Failures on the wire and the exceptions that stand for them, in both directions.

A failure arrives as an HTTP status, as a JSON-RPC error or as the text of a tool's answer, often
in more than one of these forms. Three functions therefore build the exception, and all of them
look for the same known texts. The codes are the data plane's own where it has one
(learn.microsoft.com, Container Apps dynamic sessions, and issue 1665 of
github.com/microsoft/azure-container-apps, which quotes several bodies).

An exception is `retryable` only if no code was started, according to the answer. Two texts mean
that: the pool had no free session, or it does not know the session. `NOT_STARTED` is the code that
the cci-plugins server sends for the same fact. HTTP 503 alone means nothing, because a proxy also
sends it when the connection behind it broke during a request.

No answer proves it, since a proxy may change the answer of a run that took place. So a
run is repeated under the same name, which the session or the cci-plugins server refuses to start
twice (`pools.azure.text_sessions`, `server.mcp.tools`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    ExecutionTimeoutError,
    FileTooLargeError,
    PoolError,
    PoolExhaustedError,
    PoolUnavailableError,
    ProtocolError,
    SessionFileNotFoundError,
    SessionLostError,
    UnsafeNameError,
)

META_KEY = "cci_plugins/error"
NOT_STARTED = "SessionPoolUnavailable"  # the cci-plugins server's code
BAD_IDENTIFIER = "InvalidLengthOfSessionIdentifier"
NOT_FOUND, TOO_MANY_REQUESTS, SERVER_ERROR = 404, 429, 500
MAY_HAVE_RUN = "the code may have run, so it was not sent again"
_REDIRECTS = frozenset({300, 301, 302, 303, 307, 308})
_REDIRECTED = "the pool answered with a redirect"
_MAX_CHARS, _MAX_READ = 500, 20_000
# Matched at the start only: a traceback of the user's code may hold such a text further on.
_SESSION_NOT_FOUND = re.compile(
    r"(error:? |\w*notfound\w*: )*((the|this|requested|python|shell) )*"
    r"(environment|session)\b.{0,200}\b(not found|not exist|does not exist)"
)
# The code's own error may have such words too. So for a run they count at the start of a refusal
# only, and not in the text of a tool or of a fault.
_REFUSED_KEY = re.compile(
    r"\b(unauthori[sz]ed|forbidden|invalid api key|access denied)\b", re.IGNORECASE
)
_INTERNAL_ERROR = -32603
# JSON-RPC codes that a server sends before it does any work.
_INVALID_REQUEST_CODES = frozenset({-32700, -32600, -32601, -32602})

# The first match wins: the class, the code that we send for it, the HTTP status of that code.
_CODES: tuple[tuple[type[CodeInterpreterError], str, int], ...] = (
    (PoolExhaustedError, "SessionsCountExceedsLimit", 429),
    (PoolUnavailableError, NOT_STARTED, 503),
    (SessionLostError, "SessionLost", 409),
    (UnsafeNameError, "FilePathInvalid", 400),
    (FileTooLargeError, "FileTooLarge", 413),
    (SessionFileNotFoundError, "FileNotFound", 404),
    (ExecutionTimeoutError, "ExecutionTimeout", 504),
    (AuthenticationError, "UpstreamUnauthorized", 502),
    (ProtocolError, "UpstreamProtocolError", 502),
    (ConfigurationError, "InvalidCode", 400),
)
_DEFAULT_CODE = ("SessionPoolError", 500)


def get_code_and_status(error: CodeInterpreterError) -> tuple[str, int]:
    """Return the code and the HTTP status to send for an exception."""
    for kind, code, status in _CODES:
        if isinstance(error, kind):
            return code, status
    return _DEFAULT_CODE


def dump_error(error: CodeInterpreterError) -> dict[str, Any]:
    """Write an exception as JSON for our client."""
    value: dict[str, Any] = {
        "code": get_code_and_status(error)[0],
        "message": str(error),
        "hint": error.hint,
        "retryable": error.retryable,
    }
    if isinstance(error, PoolExhaustedError):
        value["retryAfter"] = error.retry_after
    return value


def load_error(value: Mapping[str, Any]) -> CodeInterpreterError:
    """Read an exception that `dump_error` wrote. An unknown code becomes a `PoolError`."""
    code, message, hint = (value.get(name) for name in ("code", "message", "hint"))
    text = shorten(str(message or code or "the pool failed"))
    hint_text = shorten(hint) if isinstance(hint, str) else None
    kind = next((kind for kind, known, _ in _CODES if known == code), PoolError)
    if issubclass(kind, FileTooLargeError):
        return FileTooLargeError(text, size=0, limit=0, hint=hint_text)
    if issubclass(kind, PoolExhaustedError):
        return PoolExhaustedError(
            text,
            hint=hint_text,
            retry_after=parse_seconds(value.get("retryAfter")),
            retryable=value.get("retryable") is not False,
        )
    return kind(text, hint=hint_text, retryable=value.get("retryable") is True)


def build_error_from_text(text: str, *, started: bool) -> CodeInterpreterError:
    """Build the exception for a failure that a tool reports as text.

    Args:
        text: The pool's text, which may contain a code.
        started: Whether code may have run before the failure.
    """
    text = shorten(text)
    suffix = f"; {MAY_HAVE_RUN}" if started else ""
    known = _match_known_error(text)
    if known is None or (started and isinstance(known, AuthenticationError)):
        return PoolError(f"the pool failed: {text or 'it gave no reason'}{suffix}")
    return known


def build_error_from_rpc(code: int, text: str, *, starts_code: bool) -> CodeInterpreterError:
    """Build the exception for a JSON-RPC error.

    Args:
        code: The JSON-RPC code.
        text: The message of the error.
        starts_code: Whether the request may have started code.
    """
    text = shorten(text)
    if code in _INVALID_REQUEST_CODES:
        return _match_known_error(text) or ProtocolError(
            f"the pool refused the request: {text} ({code})"
        )
    if starts_code and code != _INTERNAL_ERROR and _REFUSED_KEY.match(text):
        return _build_key_error(text)
    return build_error_from_text(text, started=starts_code)


def _match_known_error(text: str) -> CodeInterpreterError | None:
    """Return the exception for a text that pools are known to send."""
    low = text.lower()
    if "SessionsCountExceedsLimit" in text:
        return PoolExhaustedError(text, hint="wait for the cooldown, or raise the pool's maximum")
    if BAD_IDENTIFIER in text:
        return PoolError(text, hint="session identifiers have 4 to 128 characters")
    if _REFUSED_KEY.search(text):
        return _build_key_error(text)
    if _SESSION_NOT_FOUND.match(low):
        return SessionLostError(text, hint="run the earlier steps again", retryable=True)
    return None


def _build_key_error(text: str) -> AuthenticationError:
    return AuthenticationError(text, hint="check the pool's key")


def build_error_from_status(
    status: int, headers: Mapping[str, str], body: bytes, *, starts_code: bool
) -> CodeInterpreterError:
    """Build the exception for an HTTP status that is not a success.

    Args:
        status: The HTTP status.
        headers: Headers of the response.
        body: Body of the response. A code and message in it go into the exception.
        starts_code: Whether the request may have started code.
    """
    detail = _extract_message(body)
    what = f"HTTP {status}, {detail}" if detail else f"HTTP {status}"
    suffix = f"; {MAY_HAVE_RUN}" if starts_code else ""
    if status in {401, 403}:
        return AuthenticationError(
            f"the pool refused the request ({what})", hint="check the pool's key and its rights"
        )
    if status in _REDIRECTS:
        return _build_redirect_error(status, headers)
    if status == TOO_MANY_REQUESTS or "SessionsCountExceedsLimit" in detail:
        wait = parse_retry_after(headers)
        return PoolExhaustedError(f"no session is free ({what})", retry_after=wait)
    if status >= SERVER_ERROR:
        return _build_server_error(what, starts_code=starts_code and NOT_STARTED not in detail)
    if status == NOT_FOUND:
        return _match_known_error(detail) or PoolError(
            f"the endpoint was not found ({what}){suffix}", hint="check the pool's endpoint"
        )
    return _match_known_error(detail) or ProtocolError(
        f"the pool did not understand the request ({what}){suffix}",
        hint=None if detail else "check the pool's endpoint",
    )


def _build_server_error(what: str, *, starts_code: bool) -> PoolError:
    if starts_code:
        return PoolError(f"the pool failed ({what}); {MAY_HAVE_RUN}")
    return PoolUnavailableError(f"the pool is not available ({what})")


def _build_redirect_error(status: int, headers: Mapping[str, str]) -> ProtocolError:
    """Build the error for a redirect, which names the target without its path and query."""
    try:
        host = urlsplit(headers.get("location", "")).hostname
    except ValueError:
        host = None
    where = f" to {shorten(host)!r}" if host else ""
    return ProtocolError(
        f"{_REDIRECTED}{where} (HTTP {status}), which is not followed because it would pass the "
        "key on",
        hint="set the endpoint to the pool's own address, with https and without a trailing slash",
    )


def is_redirect(error: Exception) -> bool:
    """Return whether the pool answered with a redirect, so that a retry changes nothing."""
    return isinstance(error, ProtocolError) and str(error).startswith(_REDIRECTED)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait by `Retry-After`, a number or a date. None if it has neither.

    Args:
        headers: Headers of the response. A date is compared with the server's own clock.
    """
    value = headers.get("retry-after")
    seconds = parse_seconds(value)
    if seconds is not None or value is None:
        return seconds
    until, now = _parse_http_date(value), _parse_http_date(headers.get("date", ""))
    if until is None:
        return None
    return max((until - (now or datetime.now(UTC))).total_seconds(), 0.0)


def _parse_http_date(text: str) -> datetime | None:
    try:
        value = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def parse_seconds(value: object) -> float | None:
    """Parse a number of seconds, as `Retry-After` has it. Return None for anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]  # a wrong type raises
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def shorten(text: str) -> str:
    """Collapse whitespace and cut the text to the length of an error message."""
    text = " ".join(text[:_MAX_READ].split())  # a long text has very many words
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + "..."


def _extract_message(body: bytes) -> str:
    """Return `code: message` of an error body in any form, or nothing if it is not JSON."""
    return shorten(": ".join(part for part in parse_error_body(body) if part))


def parse_error_body(body: bytes) -> tuple[str, str]:
    """Return code and message of an error body in any form. Each may be empty."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    inner = value.get("error", value) if isinstance(value, Mapping) else value
    if not isinstance(inner, Mapping):
        return "", inner if isinstance(inner, str) else ""
    code, message = inner.get("code"), inner.get("message") or inner.get("title")
    return str(code or ""), str(message or "")
