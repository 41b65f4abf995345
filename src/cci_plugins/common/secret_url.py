"""A URL that opens something, and never shows how."""

from __future__ import annotations

import hmac
from typing import Any, Never
from urllib.parse import unquote

from typing_extensions import override

from cci_plugins.redaction import forget, know, redact

from .hosts import AmbiguousUrlError, UrlParts, split_url


class SecretUrl:
    """Holds a URL whose query is a secret, such as a blob's with its SAS.

    Its text, wherever one is made (`str`, `repr`, an f-string, a log record, a traceback), is
    the address without user name, query and fragment. It cannot be changed or pickled; its
    copies are itself, so that `dataclasses.asdict` keeps it whole. Its signature is a known
    secret of `cci_plugins.redaction` until `forget`.

    Args:
        url: The URL with everything.
    """

    __slots__ = ("__weakref__", "_parts", "_url")

    _parts: UrlParts
    _url: str

    def __init__(self, url: str) -> None:
        object.__setattr__(self, "_url", url)
        object.__setattr__(self, "_parts", _split_or_empty(url))
        for signature in _find_signatures(url):
            know(signature)

    def reveal(self) -> str:
        """The URL itself: for the client that sends the request, and nobody else."""
        return self._url

    def forget(self) -> None:
        """Let redaction forget its signature, once that opens nothing any more."""
        for signature in _find_signatures(self._url):
            forget(signature)

    @property
    def host(self) -> str:
        """The host in lower case; empty when the URL has no plain one."""
        return self._parts.host

    @property
    def path(self) -> str:
        """The path, percent-encoded."""
        return redact(self._parts.path)

    @override
    def __str__(self) -> str:
        if not self._parts.host:
            return "[redacted]"
        parts = self._parts
        host = f"[{parts.host}]" if ":" in parts.host else parts.host
        is_default_port = {"https": 443, "http": 80}.get(parts.scheme, 0) == parts.port
        port = "" if is_default_port else f":{parts.port}"
        return redact(f"{parts.scheme}://{host}{port}{parts.path}")

    @override
    def __repr__(self) -> str:
        return f"SecretUrl({str(self)!r})"

    @override
    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretUrl):
            return NotImplemented
        return hmac.compare_digest(_encode(self._url), _encode(other._url))

    @override
    def __hash__(self) -> int:
        return hash((SecretUrl, self._url))

    @override
    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError("a SecretUrl cannot be changed")

    @override
    def __delattr__(self, name: str) -> Never:
        raise AttributeError("a SecretUrl cannot be changed")

    def __copy__(self) -> SecretUrl:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SecretUrl:
        return self

    @override
    def __reduce_ex__(self, protocol: object) -> Never:
        raise TypeError("a SecretUrl is not pickled: the secret would be written down")

    @override
    def __getstate__(self) -> Never:
        raise TypeError("a SecretUrl is not pickled: the secret would be written down")


def _split_or_empty(url: str) -> UrlParts:
    try:
        return split_url(url)
    except AmbiguousUrlError:
        return UrlParts("", "", 0, "", "")


def _find_signatures(url: str) -> list[str]:
    pairs = (pair.partition("=") for pair in url.partition("?")[2].partition("#")[0].split("&"))
    return [unquote(value) for name, _, value in pairs if unquote(name).lower() == "sig"]


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
