"""Sealing of a message for one process, so that the processes that pass it on cannot read it.

A signed URL reaches a session inside the code of a call. Every process that handles that code keeps
copies of it in its memory. So a child process makes a key pair, and the URL is sealed for it. What
passes through the session is then of no use to code that searches its memory later.

Sessions have the standard library only, so this is Diffie-Hellman in group 14 of RFC 3526 with a
new key for each message, a key stream of SHAKE-256, and HMAC. It adds to TLS and does not replace
it: code that runs in the session at the same time can put itself between the two.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from typing import Any

PRIME = int(
    "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74"
    "020bbea63b139b22514a08798e3404ddef9519b3cd3a431b302b0a6df25f1437"
    "4fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed"
    "ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf05"
    "98da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb"
    "9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b"
    "e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf695581718"
    "3995497cea956ae515d2261898fa051015728e5a8aacaa68ffffffffffffffff",
    16,
)
PRIVATE_BITS = 256


class SealError(ValueError):
    """A public key or a sealed message is invalid."""


class KeyPair:
    """A key pair. Messages that are sealed for its public key can be opened with it.

    Attributes:
        public: The public key, as hex digits.
    """

    def __init__(self) -> None:
        self._private = secrets.randbits(PRIVATE_BITS)
        self.public = format(pow(2, self._private, PRIME), "x")

    def open(self, sealed: Any) -> bytes:
        """Return a sealed message.

        Raises:
            SealError: It was sealed for another key, or changed.
        """
        try:
            key = self.derive_key(sealed["public"])
            data, tag = b64decode(sealed["data"]), b64decode(sealed["tag"])
        except (KeyError, TypeError, ValueError) as error:
            raise SealError("the sealed message is malformed") from error
        if not hmac.compare_digest(compute_tag(key, data), tag):
            raise SealError("the sealed message is for another key, or was changed")
        return apply_stream(key, data)

    def derive_key(self, other: str) -> bytes:
        """Return the secret that this key pair shares with another one.

        Args:
            other: The public key of the other one.

        Raises:
            SealError: It is not a public key.
        """
        try:
            number = int(other, 16)
        except (TypeError, ValueError):
            number = 0
        if not 1 < number < PRIME - 1:
            raise SealError("the public key is invalid")
        shared = pow(number, self._private, PRIME)
        return hashlib.sha256(shared.to_bytes(PRIME.bit_length() // 8, "big")).digest()


def seal(message: bytes, public: str) -> dict[str, str]:
    """Seal a message for the owner of a public key, as JSON values.

    Args:
        message: What to seal.
        public: The public key, as hex digits.

    Raises:
        SealError: It is not a public key.
    """
    pair = KeyPair()
    key = pair.derive_key(public)
    data = apply_stream(key, message)
    tag = compute_tag(key, data)
    return {
        "public": pair.public,
        "data": b64encode(data).decode(),
        "tag": b64encode(tag).decode(),
    }


def apply_stream(key: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt data. A key must not be used for two messages."""
    stream = hashlib.shake_256(key + b"stream").digest(len(data))
    number = int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")
    return number.to_bytes(len(data), "big")


def compute_tag(key: bytes, data: bytes) -> bytes:
    """Return the code that authenticates encrypted data."""
    return hmac.new(key, data, hashlib.sha256).digest()
