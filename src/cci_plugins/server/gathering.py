"""A transport that sends the head of an answer together with its body: `GatheringTransport`.

uvicorn writes one after the other. Each write goes to the socket at once, as a packet of its own
that wakes up the client. Between `hold` and `release`, what is written is kept.
"""

from __future__ import annotations

import asyncio
from typing import Any

from typing_extensions import override

_Data = bytes | bytearray | memoryview


class GatheringTransport(asyncio.Transport):
    """A transport of uvicorn's protocol, in front of the real one.

    Args:
        transport: The real one.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._held: list[_Data] | None = None

    def hold(self) -> None:
        """Keep what is written from now on."""
        if self._held is None:
            self._held = []

    def release(self) -> None:
        """Write what was kept, in one piece."""
        held, self._held = self._held, None
        if held:
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))

    @override
    def write(self, data: _Data) -> None:
        if self._held is None:
            self._transport.write(data)
        elif data:
            self._held.append(data)

    @override
    def close(self) -> None:
        self.release()
        self._transport.close()

    @override
    def abort(self) -> None:
        self._held = None
        self._transport.abort()

    @override
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    @override
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    @override
    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._transport.get_protocol()

    @override
    def is_reading(self) -> bool:
        return self._transport.is_reading()

    @override
    def pause_reading(self) -> None:
        self._transport.pause_reading()

    @override
    def resume_reading(self) -> None:
        self._transport.resume_reading()

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    @override
    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    @override
    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._transport.get_write_buffer_limits()

    @override
    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    @override
    def write_eof(self) -> None:
        self.release()
        self._transport.write_eof()
