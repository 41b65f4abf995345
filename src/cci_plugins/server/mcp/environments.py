"""Environment ids: how the server issues them, and which session each one stands for.

The server keeps no table of the ids that it issued. A signed id contains all that is needed to
check it. So every replica with the same secret accepts it, and nobody can invent one.
"""

from __future__ import annotations

import hmac
import re
import secrets as randomness
import struct
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol
from uuid import uuid4

from cci_plugins.errors import ConfigurationError
from cci_plugins.mcp_client.failures import BAD_IDENTIFIER
from cci_plugins.server.callers import current_caller
from cci_plugins.server.requests import check_identifier

MAX_AGE = timedelta(days=7)
MIN_SECRET_BYTES = 32
NOT_FOUND = "EnvironmentNotFound"
_VERSION = 1
_HEAD = struct.Struct(">BI12s")  # version, seconds since 1970, randomness
_MAC_BYTES = 16
# 33 bytes are exactly 44 characters of base64: no padding, no spare bits, so only one spelling.
_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{44}", re.ASCII)
_ID_LABEL, _SESSION_LABEL = b"cci environment id\0", b"cci session identifier\0"


class EnvironmentIdError(Exception):
    """An environment id that the server does not accept.

    The model reads `code` and the message.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Environments(Protocol):
    """Issuer of environment ids, which maps each one to a session of the pool."""

    @property
    def accepts_any_id(self) -> bool:
        """Whether clients may choose ids. Then an id is the session identifier itself."""
        ...

    def mint(self) -> str:
        """Issue a new id. No session is touched."""
        ...

    def resolve_session_id(self, environment_id: object) -> str:
        """Return the session identifier that an id stands for.

        Raises:
            EnvironmentIdError: The id is not accepted.
        """
        ...


class OpenEnvironments:
    """Environments that accept any id of 4 to 128 characters, as Azure's session pools do."""

    accepts_any_id = True

    def mint(self) -> str:
        """Issue a random UUID."""
        return str(uuid4())

    def resolve_session_id(self, environment_id: object) -> str:
        """Return the id itself.

        Raises:
            EnvironmentIdError: The id has the wrong length or form.
        """
        if (problem := check_identifier(environment_id)) is not None:
            raise EnvironmentIdError(problem, BAD_IDENTIFIER)
        return str(environment_id)


class SignedEnvironments:
    """Environments that accept only ids issued by a replica with one of these secrets.

    A second HMAC derives the session identifier from the id. So the identifiers in the pool's logs
    are not valid ids here, and a client cannot choose whose session it gets. An id is also bound to
    the caller that launched it: nobody else's token opens it, nor does the shared key.

    Args:
        secrets: Random bytes, at least 32 in each. The first one signs, and all of them verify. To
            rotate, put a new secret first, and remove the old one when its ids are too old.
        max_age: How long an id is accepted after it was issued.
        clock: Returns the seconds since 1970.

    Example:
        ```python
        environments = SignedEnvironments(b"at least 32 random bytes of yours")
        session_id = environments.resolve_session_id(environments.mint())
        assert session_id.startswith("cci-")
        ```
    """

    accepts_any_id = False

    def __init__(
        self,
        *secrets: bytes,
        max_age: timedelta = MAX_AGE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not secrets or min(map(len, secrets)) < MIN_SECRET_BYTES:
            raise ConfigurationError(
                f"a secret that signs environment ids has fewer than {MIN_SECRET_BYTES} bytes",
                hint="create one with: openssl rand -base64 48",
            )
        self._secrets = secrets
        self._max_age = max_age
        self._clock = clock

    def mint(self) -> str:
        """Issue an id of 44 characters `[A-Za-z0-9_-]`, signed with the first secret."""
        caller = current_caller.get()
        head = _HEAD.pack(_VERSION, int(self._clock()), randomness.token_bytes(12))
        return urlsafe_b64encode(head + _compute_mac(self._secrets[0], head, caller)).decode()

    def resolve_session_id(self, environment_id: object) -> str:
        """Return the session identifier that is derived from an id.

        Raises:
            EnvironmentIdError: None of the secrets signed the id for the caller, or it is too old.
        """
        unknown = EnvironmentIdError(
            "The environment does not exist: this server did not issue its environmentId.",
            NOT_FOUND,
        )
        if not isinstance(environment_id, str) or not _ID_PATTERN.fullmatch(environment_id):
            raise unknown
        signed = urlsafe_b64decode(environment_id)
        head, mac = signed[: _HEAD.size], signed[_HEAD.size :]
        # try every secret, so that the duration does not reveal which one signed
        caller = current_caller.get()
        signers = [
            s for s in self._secrets if hmac.compare_digest(_compute_mac(s, head, caller), mac)
        ]
        version, issued, _ = _HEAD.unpack(head)
        if not signers or version != _VERSION:
            raise unknown
        if self._clock() - issued > self._max_age.total_seconds():
            raise EnvironmentIdError("The environment is too old to be used.", NOT_FOUND)
        return "cci-" + hmac.digest(signers[0], _SESSION_LABEL + signed, "sha256").hex()


def _compute_mac(secret: bytes, head: bytes, caller: str) -> bytes:
    """Sign the head of an id for its caller. The head has a fixed length, so both stay apart."""
    signed = _ID_LABEL + head + caller.encode()
    return hmac.digest(secret, signed, "sha256")[:_MAC_BYTES]
