"""One connection to a socket of a kernel: ZMTP 3.0 with bounds that libzmq does not have.

The kernel runs untrusted code, which can write any bytes to its sockets. libzmq bounds a frame,
not a message: frames without end that announce one more would fill the host's memory, and the
host would never see a message. Its queue is counted in messages of up to 48 MiB each. So the
host speaks the protocol itself (rfc.zeromq.org/spec/23). It needs only the client's side of the
mechanism NULL, and connects once.

Three bounds hold. `MAX_MESSAGE_BYTES` counts one message of output with all its frames, which are
refused by the size in their header. Replies have lower bounds (`MAX_REPLY_BYTES`), because each
socket may have to keep that much of a message whose end never comes. `MAX_FRAMES` counts its
frames. `HIGH_WATER_BYTES` counts the messages that wait. Beyond it nothing is read, so the kernel's
own queue fills, in the kernel's own memory, and its code waits (`in_session/output_pace`). A small
message costs `MESSAGE_COST` at least, which bounds the number of messages, too.

A peer that breaks the protocol or a bound is disconnected. `receive` then raises
`KernelConnectionError` with the reason. It raises the same after the peer has closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Literal, cast

from cci_plugins.common.limits import MIB
from cci_plugins.common.shortages import find_hint
from cci_plugins.errors import PoolUnavailableError

MAX_MESSAGE_BYTES = 48 * MIB
MAX_REPLY_BYTES = 32 * MIB  # to a run: its texts are cut in the session (`message_bounds`)
MAX_CONTROL_BYTES = MIB
MAX_FRAMES = 4096
MAX_COMMANDS = 1000
HIGH_WATER_BYTES = MIB // 2
LOW_WATER_BYTES = MIB // 8
MESSAGE_COST = 1024
READ_BYTES = 64 * 1024  # at once
MAX_UNSENT_BYTES = 2 * MAX_MESSAGE_BYTES
CONNECT_ATTEMPTS = 20
CONNECT_SECONDS = 0.05  # between two attempts: a socket accepts shortly after its file exists
CLOSED = "it closed its connection to the pool"
TOO_LARGE = f"it sent more than {MAX_MESSAGE_BYTES // MIB} MiB of output at once"
REPLY_TOO_LARGE = "it sent a reply that is too large"
MALFORMED = "it sent bytes that are not a Jupyter message"

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_HEADER, _LONG_HEADER = 2, 9
_MAX_SHORT = 255

Channel = Literal["shell", "iopub", "control"]
CHANNELS: tuple[Channel, ...] = ("shell", "iopub", "control")
_MAX_BYTES: dict[Channel, int] = {
    "shell": MAX_REPLY_BYTES,
    "iopub": MAX_MESSAGE_BYTES,
    "control": MAX_CONTROL_BYTES,
}
_SOCKET_TYPES: dict[Channel, bytes] = {"shell": b"DEALER", "iopub": b"SUB", "control": b"DEALER"}


class KernelConnectionError(Exception):
    """The connection is closed. The text is the reason, as a clause."""


class KernelSocket(asyncio.BufferedProtocol):
    """A connection to the shell, iopub or control socket of a kernel.

    Args:
        channel: The socket.

    Attributes:
        received_bytes: Bytes that have arrived.
    """

    def __init__(self, channel: Channel) -> None:
        self.received_bytes = 0
        self._channel: Channel = channel
        self._transport: asyncio.Transport | None = None
        self._incoming = bytearray(READ_BYTES)
        self._buffer = bytearray()
        self._has_greeting = False
        self._commands = 0
        self._unsent: list[bytes] | None = []  # until the peer is ready for messages
        self._frames: list[bytes] = []
        self._frame_bytes = 0
        self._messages: deque[tuple[list[bytes], int]] = deque()
        self._waiting_bytes = 0
        self._is_paused = False
        self._close_reason: str | None = None
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    async def connect(cls, connection: dict[str, Any], channel: Channel) -> KernelSocket:
        """Connect to a socket that accepts connections.

        Args:
            connection: Jupyter's connection info.
            channel: The socket.

        Raises:
            OSError: It does not accept connections.
        """
        for _ in range(CONNECT_ATTEMPTS - 1):
            try:
                return await cls._connect_once(connection, channel)
            except OSError:
                await asyncio.sleep(CONNECT_SECONDS)
        return await cls._connect_once(connection, channel)

    @classmethod
    async def _connect_once(cls, connection: dict[str, Any], channel: Channel) -> KernelSocket:
        loop = asyncio.get_running_loop()
        address, port = connection["ip"], connection[f"{channel}_port"]
        if connection["transport"] == "ipc":
            _, socket = await loop.create_unix_connection(lambda: cls(channel), f"{address}-{port}")
        else:
            _, socket = await loop.create_connection(lambda: cls(channel), address, port)
        return socket

    @property
    def has_waiting(self) -> bool:
        """True while messages wait to be received."""
        return bool(self._messages) or self._is_paused

    async def receive(self) -> tuple[list[bytes], int]:
        """Return the frames of the next message, and its cost in bytes.

        Raises:
            KernelConnectionError: The connection is closed, and no message is left.
        """
        while not self._messages:
            if self._is_paused:
                self._resume()
                continue
            if self._close_reason is not None:
                raise KernelConnectionError(self._close_reason)
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        frames, cost = self._messages.popleft()
        self._waiting_bytes -= cost
        if self._is_paused and self._waiting_bytes <= LOW_WATER_BYTES:
            self._resume()
        return frames, cost

    def send(self, frames: list[bytes]) -> None:
        """Send a message.

        Raises:
            KernelConnectionError: The connection is closed, or the kernel does not read.
        """
        if self._transport is None or self._close_reason is not None:
            raise KernelConnectionError(self._close_reason or CLOSED)
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            raise KernelConnectionError("it does not read its messages")
        last = len(frames) - 1
        parts = [
            _encode_frame(frame, 0 if at == last else _MORE) for at, frame in enumerate(frames)
        ]
        if self._unsent is None:
            self._transport.write(b"".join(parts))
        else:
            self._unsent += parts

    def close(self) -> None:
        """Close the connection. What has not been sent is dropped."""
        self._fail(CLOSED)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send greeting and handshake. Messages follow when the peer has sent its own."""
        self._transport = cast("asyncio.Transport", transport)
        kind = _SOCKET_TYPES[self._channel]
        command = b"\x05READY" + _encode_property(b"Socket-Type", kind)
        if kind == b"DEALER":
            command += _encode_property(b"Identity", b"")
        else:
            self.send([b"\x01"])  # subscribe to everything
        self._transport.write(_GREETING + _encode_frame(command, _COMMAND))

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's signature
        """Return where the next bytes go: else each read allocates four times as much."""
        return self._incoming

    def buffer_updated(self, nbytes: int) -> None:
        """Add bytes that have arrived in the buffer."""
        with memoryview(self._incoming) as view:
            self.data_received(view[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        """Add bytes that have arrived."""
        self.received_bytes += len(data)
        if self._close_reason is None:
            self._buffer += data
            self._parse()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Note that the peer has closed."""
        self._fail(CLOSED)

    def _fail(self, reason: str) -> None:
        if self._close_reason is None:
            self._close_reason = reason
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        if reason != CLOSED:
            self._buffer.clear()
            self._frames.clear()
        self._wake_up()

    def _wake_up(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume(self) -> None:
        self._is_paused = False
        self._parse()
        if not self._is_paused and self._transport is not None:
            self._transport.resume_reading()

    def _parse(self) -> None:
        """Take complete messages out of the buffer until enough of them wait."""
        start = self._parse_greeting()
        while start is not None and not self._is_paused:
            end = self._parse_frame(start)
            if end is None:
                break
            start = end
            if self._waiting_bytes > HIGH_WATER_BYTES:
                self._is_paused = True
                if self._transport is not None:
                    self._transport.pause_reading()
        if start and self._buffer:
            del self._buffer[:start]
        if self._messages:
            self._wake_up()

    def _parse_greeting(self) -> int | None:
        """Return where the frames begin, or None until the greeting is complete."""
        if self._has_greeting:
            return 0
        if len(self._buffer) < len(_GREETING):
            return None
        signature, mechanism = self._buffer[:11], self._buffer[12:32]
        if signature[0] != 0xFF or signature[10] < 3 or mechanism.rstrip(b"\0") != b"NULL":  # noqa: PLR2004
            self._fail(MALFORMED)
            return None
        self._has_greeting = True
        return len(_GREETING)

    def _parse_frame(self, start: int) -> int | None:
        """Take one frame, and return its end. None if it is incomplete or refused."""
        buffer = self._buffer
        if len(buffer) - start < _SHORT_HEADER:
            return None
        flags, head, size = buffer[start], start + _SHORT_HEADER, buffer[start + 1]
        if flags & _LONG:
            head = start + _LONG_HEADER
            if len(buffer) < head:
                return None
            size = int.from_bytes(buffer[start + 1 : head], "big")
        if self._frame_bytes + size > _MAX_BYTES[self._channel]:
            self._fail(TOO_LARGE if self._channel == "iopub" else REPLY_TOO_LARGE)
            return None
        if len(buffer) - head < size:
            return None
        with memoryview(buffer) as view:
            body = bytes(view[head : head + size])
        if flags & _COMMAND:
            self._commands += 1
            if self._unsent is not None and self._transport is not None:
                self._transport.write(b"".join(self._unsent))
                self._unsent = None
        else:
            self._add_frame(body, is_last=not flags & _MORE)
        if len(self._frames) > MAX_FRAMES or self._commands > MAX_COMMANDS:
            self._fail(MALFORMED)
            return None
        return head + size

    def _add_frame(self, body: bytes, *, is_last: bool) -> None:
        self._frames.append(body)
        self._frame_bytes += len(body)
        if is_last:
            cost = self._frame_bytes + MESSAGE_COST
            self._messages.append((self._frames, cost))
            self._waiting_bytes += cost
            self._frames, self._frame_bytes = [], 0


async def connect_all(connection: dict[str, Any]) -> dict[str, KernelSocket]:
    """Connect to every channel of a kernel that was just launched, or to none.

    Args:
        connection: Jupyter's connection info.

    Raises:
        PoolUnavailableError: One does not accept connections.
    """
    sockets: dict[str, KernelSocket] = {}
    try:
        for channel in CHANNELS:
            sockets[channel] = await KernelSocket.connect(connection, channel)
    except BaseException as error:
        for socket in sockets.values():
            socket.close()
        if isinstance(error, OSError):
            what = f"cannot connect to the kernel: {error}"
            hint = find_hint(error) or "try again when this machine is less busy"
            raise PoolUnavailableError(what, hint=hint) from error
        raise
    return sockets


def _encode_frame(body: bytes, flags: int = 0) -> bytes:
    if len(body) > _MAX_SHORT:
        return bytes((flags | _LONG,)) + len(body).to_bytes(8, "big") + body
    return bytes((flags, len(body))) + body


def _encode_property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value
