"""A TCP proxy that can refuse connections and break those it has."""

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress

_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """A proxy between a client and a server on loopback.

    Attributes:
        broken: How many connections were reset.
    """

    def __init__(self, target_port: int) -> None:
        self.broken = 0
        self.port = 0
        self._target = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Accept no further connections."""
        if self._server is not None:
            self._server.close()

    def reset(self) -> None:
        """Reset every connection at once, with data in transit."""
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
            self.broken += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._writers.add(writer)
        try:
            await asyncio.gather(_pump(reader, target_writer), _pump(target_reader, writer))
        finally:
            self._writers.discard(writer)
            target_writer.close()
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    with suppress(OSError):
        writer.close()


@asynccontextmanager
async def proxied(target_port: int):
    proxy = Proxy(target_port)
    await proxy.listen()
    try:
        yield proxy
    finally:
        proxy.refuse()
        proxy.reset()
