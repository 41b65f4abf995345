"""Reads one channel of a kernel, so that no kernel holds up the others or their limits.

All kernels share one event loop. After each slice of messages, by number or by bytes, a reader
yields to the loop, however much its kernel sends. A large message is checked and decoded in a
worker thread, one at a time for all kernels. A message that nobody waits for is not decoded.

`FloodGauge` counts what a kernel sends on all its channels, whether or not a run is in progress.
Its numbers are far above what `SandboxLimits.runaway_bytes` lets a run print, so only messages
of other kinds and code in the background reach them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from cci_plugins.common import short_runs
from cci_plugins.common.limits import MIB
from cci_plugins.common.log import logger
from cci_plugins.common.worker_lane import WorkerLane

from .kernel_socket import KernelSocket
from .messages import MalformedMessageError, MessageCodec, read_headers

T = TypeVar("T")
SLICE_MESSAGES = 8
SLICE_BYTES = 64 * 1024  # larger messages are decoded in a worker thread
FLOOD_BYTES = 1024 * MIB  # the kernel is ended
RUN_FLOOD_BYTES = 512 * MIB  # the run is interrupted
ALLOWED_BYTES_PER_SECOND = 4 * MIB  # are forgotten

SHORT_RUN_BYTES = 256 * 1024  # of output: with more, a run is not short (`short_runs`)

_lane = WorkerLane("kernel_messages")

Handler = Callable[[str, str, dict[str, Any], int], None]


class _FloodHandler(Protocol):
    def __call__(self, *, is_over: bool) -> Awaitable[None]: ...


class FloodGauge:
    """What a kernel has sent lately. It sinks by `ALLOWED_BYTES_PER_SECOND`.

    Args:
        on_flood: Called when a run has sent more than `RUN_FLOOD_BYTES`, and beyond `FLOOD_BYTES`
            with `is_over`.
    """

    def __init__(self, on_flood: _FloodHandler) -> None:
        self._on_flood = on_flood
        self._level = 0.0
        self._level_before_run = 0.0
        self._measured = time.monotonic()

    def start_run(self) -> None:
        """Count for a new run only what is sent from now on."""
        self._level_before_run = self._level
        short_runs.begin_run(self)

    def end_run(self) -> None:
        """Note the end of the run."""
        short_runs.end_run(self)

    async def add(self, cost: int) -> None:
        """Count a message."""
        now = time.monotonic()
        sunk = (now - self._measured) * ALLOWED_BYTES_PER_SECOND
        self._level, self._measured = max(self._level - sunk, 0.0) + cost, now
        self._level_before_run = min(self._level_before_run, self._level)
        of_run = self._level - self._level_before_run
        if of_run > SHORT_RUN_BYTES:
            short_runs.end_run(self)
        is_over = self._level > FLOOD_BYTES
        if is_over or of_run > RUN_FLOOD_BYTES:
            await self._on_flood(is_over=is_over)


class KernelReader:
    """Reads the messages of one channel.

    Args:
        socket: The connection.
        codec: Checks and decodes them.
        gauge: Counts them.
    """

    def __init__(self, socket: KernelSocket, codec: MessageCodec, gauge: FloodGauge) -> None:
        self._socket = socket
        self._codec = codec
        self._gauge = gauge
        self._handled = 0
        self._is_handling = False

    @property
    def progress(self) -> int:
        """A number that changes while messages arrive, wait or are decoded."""
        if self._is_handling or self._socket.has_waiting:
            return time.monotonic_ns()
        return self._socket.received_bytes + self._handled

    async def run(self, is_wanted: Callable[[str, str], bool], handle: Handler) -> None:
        """Hand on messages until the connection closes.

        Args:
            is_wanted: Returns whether a message of this type and request is to be decoded.
            handle: Called with type, request, content and size of its forms.

        Raises:
            KernelConnectionError: The connection is closed.
        """
        messages, size = 0, 0
        while True:
            frames, cost = await self._socket.receive()
            await self._gauge.add(cost)
            self._is_handling = True
            try:
                await self._handle(frames, cost, is_wanted, handle)
            finally:
                self._is_handling = False
            self._handled += 1
            messages, size = messages + 1, size + cost
            if messages >= SLICE_MESSAGES or size >= SLICE_BYTES:
                messages, size = 0, 0
                await asyncio.sleep(0)

    async def _handle(
        self,
        frames: list[bytes],
        cost: int,
        is_wanted: Callable[[str, str], bool],
        handle: Handler,
    ) -> None:
        try:
            message = read_headers(frames)
            if not is_wanted(message.kind, message.parent):
                return
            decode = partial(self._codec.read_content, message)
            if cost < SLICE_BYTES:
                content, size = decode()
            else:
                content, size = await _lane.run(lambda: _decode_in_turn(decode))
            handle(message.kind, message.parent, content, size)
        except (
            MalformedMessageError,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:  # the session's own code wrote it
            logger.debug("a message of a session was ignored: %s", type(error).__name__)


def _decode_in_turn(decode: Callable[[], T]) -> T:
    """Decode a large message in a worker thread, after the short runs of others."""
    short_runs.wait_for_short_runs()
    return decode()
