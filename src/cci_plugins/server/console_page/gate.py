"""Who may see the console's page: `ConsoleGate`.

A browser sends the server's key once, in the form. It gets a cookie with a random token, which
scripts cannot read and other sites cannot send. The server keeps the digest of the token, and a
second random token that each form of a page must bring back.
"""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from secrets import token_hex, token_urlsafe

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from cci_plugins.core.html_pages.page import build_headers
from cci_plugins.server.rate import Rate

from .sessions import ROOT, SIGN_IN, build_sign_in_page

MAX_AGE_SECONDS = 8 * 3600
MAX_VISITS = 100
ATTEMPTS_PER_MINUTE = 10  # of one address


@dataclass(frozen=True, slots=True)
class Visit:
    """A browser that signed in.

    Attributes:
        form_token: What its forms must bring back.
        expires_at: When it must sign in again, on the gate's clock.
    """

    form_token: str = field(default_factory=token_urlsafe, repr=False)
    expires_at: float = 0

    def is_form_valid(self, token: str) -> bool:
        """Return whether a form came from a page of this visit."""
        return hmac.compare_digest(token.encode(errors="replace"), self.form_token.encode())


class ConsoleGate:
    """Checks who may see the console.

    Args:
        key: The server's key.
        clock: Returns seconds.
    """

    def __init__(self, key: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = key.encode()
        self._clock = clock
        self._cookie = f"cci_console_{token_hex(4)}"  # cookies do not know ports
        self._visits: OrderedDict[bytes, Visit] = OrderedDict()
        self._attempts = Rate(ATTEMPTS_PER_MINUTE, clock=clock)

    def check(self, scope: Scope, network: str) -> Response | None:
        """Return the refusal of a request, or None if it may pass.

        Args:
            scope: A request to a path of the console.
            network: The part of the client's address that it has for itself.
        """
        if self.find(scope) is not None:
            return None
        if scope["path"] != SIGN_IN:
            if scope["method"] in {"GET", "HEAD"}:
                return RedirectResponse(SIGN_IN, 303, build_headers())
            return HTMLResponse(build_sign_in_page("Sign in first."), 403, build_headers())
        wait = self._attempts.hit(network) if scope["method"] == "POST" else None
        if wait is not None:
            page = build_sign_in_page(f"Too many attempts. Try again in {wait} s.")
            return HTMLResponse(page, 429, {**build_headers(), "retry-after": str(wait)})
        return None

    def find(self, scope: Scope) -> Visit | None:
        """Return the visit of a request, or None if its browser has not signed in."""
        digest = self._read_digest(scope)
        visit = self._visits.get(digest)
        if visit is not None and visit.expires_at <= self._clock():
            del self._visits[digest]
            return None
        return visit

    def sign_in(self, key: str, scope: Scope) -> Response | None:
        """Return the answer that sets the cookie, or None if the key is wrong."""
        if not hmac.compare_digest(key.encode(errors="replace"), self._key):
            return None
        token = token_urlsafe(32)
        expires_at = self._clock() + MAX_AGE_SECONDS
        self._visits[_compute_digest(token)] = Visit(expires_at=expires_at)
        if len(self._visits) > MAX_VISITS:
            self._visits.popitem(last=False)
        return self._set_cookie(RedirectResponse(ROOT, 303, build_headers()), scope, token)

    def sign_out(self, scope: Scope) -> Response:
        """Forget the visit of a request, and return the answer that removes the cookie."""
        self._visits.pop(self._read_digest(scope), None)
        return self._set_cookie(RedirectResponse(SIGN_IN, 303, build_headers()), scope, "")

    def _read_digest(self, scope: Scope) -> bytes:
        return _compute_digest(HTTPConnection(scope).cookies.get(self._cookie, ""))

    def _set_cookie(self, response: Response, scope: Scope, token: str) -> Response:
        response.set_cookie(
            self._cookie,
            token,
            max_age=MAX_AGE_SECONDS if token else 0,
            path=ROOT,
            secure=scope["scheme"] == "https",
            httponly=True,
            samesite="strict",
        )
        return response


def is_console_path(path: str) -> bool:
    """Return whether the console answers a path."""
    return path == ROOT or path.startswith(f"{ROOT}/")


def _compute_digest(token: str) -> bytes:
    return sha256(token.encode(errors="replace")).digest()
