"""Sockets for host tools: a pair whose one end the session inherits, or a loopback connection."""

from __future__ import annotations

import asyncio
import hmac
import socket
from contextlib import suppress
from secrets import token_bytes

from .base import ToolSocket

CHALLENGE_BYTES = 64
_PROOF_BYTES = 32
_PROOF_SECONDS = 10.0


class InheritedSocket(ToolSocket):
    """A socket pair. The session's process inherits one end, whose number stays the same."""

    def __init__(self) -> None:
        self._host: socket.socket | None
        self._host, self._session = socket.socketpair()
        self.descriptor = self._session.fileno()
        self.address = {"descriptor": self.descriptor}

    def close_session_end(self) -> None:
        """Close this process's copy of the session's end, once the session has started."""
        self._session.close()

    async def connect(self) -> socket.socket:
        """Return the host's end, which the caller then owns.

        Raises:
            OSError: The sandbox has ended.
        """
        host, self._host = self._host, None
        if host is None:
            raise OSError("the sandbox has ended")
        return host

    def close(self) -> None:
        """Close what this object still owns."""
        self._session.close()
        if self._host is not None:
            self._host.close()
            self._host = None


class LoopbackSocket(ToolSocket):
    """A connection to this process, for Windows, where no descriptor is inherited.

    Any program of this machine can connect. Only the session has the key, so it proves that by
    the HMAC of a random challenge. The first connection with a proof is accepted.

    Args:
        key: The key of the kernel's messages, in hex.
    """

    def __init__(self, key: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=8)
        self._listener.settimeout(0)
        self._key = key
        self.address = {"port": self._listener.getsockname()[1], "key": key}

    async def connect(self) -> socket.socket:
        """Wait for the session's connection."""
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            connection.settimeout(0)
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_PROOF_SECONDS):
                    if await self._is_session(connection):
                        self._listener.close()
                        return connection
            connection.close()

    async def _is_session(self, connection: socket.socket) -> bool:
        loop, challenge = asyncio.get_running_loop(), token_bytes(CHALLENGE_BYTES)
        await loop.sock_sendall(connection, challenge)
        proof = b""
        while len(proof) < _PROOF_BYTES:
            chunk = await loop.sock_recv(connection, _PROOF_BYTES - len(proof))
            if not chunk:
                return False
            proof += chunk
        expected = hmac.digest(self._key.encode(), challenge, "sha256")
        return hmac.compare_digest(proof, expected)

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
