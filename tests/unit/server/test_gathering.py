"""How the head and the body of an answer become one write."""

import asyncio
from typing import Any

from cci_plugins.server.gathering import GatheringTransport


class RecordingTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def write(self, data) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")


def test_what_is_held_is_written_in_one_piece_and_before_the_end():
    real = RecordingTransport()
    transport = GatheringTransport(real)
    transport.write(b"at once")
    transport.hold()
    transport.write(b"head ")
    transport.hold()
    transport.write(b"")
    transport.write(bytearray(b"body"))
    assert real.calls == [b"at once"]
    transport.release()
    transport.release()
    assert real.calls == [b"at once", b"head body"]
    transport.write(b"more")
    transport.hold()
    transport.write(b"the last")
    transport.close()
    assert real.calls[2:] == [b"more", b"the last", "close"]


def test_what_is_held_is_dropped_when_the_connection_is_aborted():
    real = RecordingTransport()
    transport = GatheringTransport(real)
    transport.hold()
    transport.write(b"head")
    transport.abort()
    transport.release()
    assert real.calls == ["abort"]
