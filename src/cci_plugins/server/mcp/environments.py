"""Environment ids: how they are minted, and the session that each one stands for.

A server that keeps no table can still tell its own ids from invented ones: an id carries what is
needed and is signed, so every replica with the same secret takes it.
"""

from __future__ import annotations

import hashlib
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
from cci_plugins.server import identifiers

MAX_AGE = timedelta(days=7)
MIN_SECRET_BYTES = 32
NOT_FOUND = "EnvironmentNotFound"
_VERSION = 1
_HEAD = struct.Struct(">BI12s")  # version, seconds since 1970, randomness
_MAC_BYTES = 16
# 33 bytes are 44 characters to the bit: without padding or spare bits an id has one spelling.
_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{44}", re.ASCII)
_ID_LABEL, _SESSION_LABEL = b"cci environment id\0", b"cci session identifier\0"


class EnvironmentIdError(Exception):
    """An environment id that is not taken; `code` and the text tell the model what is wrong."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Environments(Protocol):
    """Mints environment ids and maps each one to a session of the pool."""

    @property
    def accepts_any_id(self) -> bool:
        """Whether clients may choose ids, so that these are session identifiers as they are."""
        ...

    def mint(self) -> str:
        """A new id; touches no session."""
        ...

    def resolve_session_id(self, environment_id: object) -> str:
        """The session that an id stands for.

        Raises:
            EnvironmentIdError: The id is not taken.
        """
        ...


class OpenEnvironments:
    """Takes any id of 4 to 128 characters as the session identifier, as session pools do."""

    accepts_any_id = True

    def mint(self) -> str:
        """A random UUID."""
        return str(uuid4())

    def resolve_session_id(self, environment_id: object) -> str:
        """The id itself.

        Raises:
            EnvironmentIdError: It has the wrong length or form.
        """
        if (problem := identifiers.check_identifier(environment_id)) is not None:
            raise EnvironmentIdError(problem, identifiers.CODE)
        return str(environment_id)


class SignedEnvironments:
    """Takes only ids that a replica with one of these secrets minted.

    The session's identifier is derived from the id by a second HMAC: whoever reads the pool's
    logs has no id to use here, and a client cannot choose whose session it gets.

    Args:
        secrets: Random bytes, at least 32 of each. The first one signs, every one is taken;
            so a new secret goes in front, and the old one leaves once its ids are too old.
        max_age: How long after its launch an id is taken.
        clock: Seconds since 1970.
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
                f"the secret that signs environment ids has fewer than {MIN_SECRET_BYTES} bytes",
                hint="make one with: openssl rand -base64 48",
            )
        self._secrets = secrets
        self._max_age = max_age
        self._clock = clock

    def mint(self) -> str:
        """An id of 44 characters of `[A-Za-z0-9_-]`, signed with the first secret."""
        head = _HEAD.pack(_VERSION, int(self._clock()), randomness.token_bytes(12))
        return urlsafe_b64encode(head + _compute_mac(self._secrets[0], head)).decode()

    def resolve_session_id(self, environment_id: object) -> str:
        """The session derived from an id of ours.

        Raises:
            EnvironmentIdError: No secret signed the id, or it is too old.
        """
        unknown = EnvironmentIdError(
            "The environment does not exist: its environmentId is not one that this server gave.",
            NOT_FOUND,
        )
        if not isinstance(environment_id, str) or not _ID_PATTERN.fullmatch(environment_id):
            raise unknown
        signed = urlsafe_b64decode(environment_id)
        head, mac = signed[: _HEAD.size], signed[_HEAD.size :]
        # every secret is tried, so that the time does not tell which one it was
        signers = [s for s in self._secrets if hmac.compare_digest(_compute_mac(s, head), mac)]
        version, issued, _ = _HEAD.unpack(head)
        if not signers or version != _VERSION:
            raise unknown
        if self._clock() - issued > self._max_age.total_seconds():
            raise EnvironmentIdError("The environment is too old to be used.", NOT_FOUND)
        return "cci-" + hmac.new(signers[0], _SESSION_LABEL + signed, hashlib.sha256).hexdigest()


def _compute_mac(secret: bytes, head: bytes) -> bytes:
    return hmac.new(secret, _ID_LABEL + head, hashlib.sha256).digest()[:_MAC_BYTES]
