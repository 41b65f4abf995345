"""The host's tools in a session: the object `tools`, and the client of its calls.

Sent as source, standard library only. It runs in the kernel of the embedded pool. The pool
describes the tools of a run in the metadata of its execute request. Calls and answers travel over a
socket of their own, so that several threads and tasks call at once. A frame is a 4-byte length and
as many bytes: a line of JSON, and the arguments or the result as JSON.

- A caller waits on a `Future`. It never writes itself: an interrupt would cut its frame.
- The writer thread owns the calls that are not sent yet. It sends at most `at_once` of them.
- The reader thread completes futures. An answer to an unknown call is dropped.

Both threads start with the first run that has tools. At the end of a run all its calls fail, and
later ones too. A forked child has neither thread, so it closes the socket and cannot call.

These checks only give a quick message. The host checks everything again.
"""

from __future__ import annotations

import asyncio
import builtins
import itertools
import json
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from cci_plugins.in_session.tool_arguments import (
    ERRORS,
    ToolArgumentError,
    ToolDeniedError,
    ToolError,
    ToolLimitError,
    ToolTimeoutError,
    bind_arguments,
    build_signature,
    encode_arguments,
)

METADATA_KEY = "cci_tools"  # in the metadata of an execute request
NAME = "tools"
NO_RUN = "no run with host tools is in progress"
RUN_ENDED = "the run ended before the tool returned"
CLOSED = "the host closed the connection for tools; a new session has another one"
_LENGTH_BYTES = 4


class Run:
    """One run with tools.

    Attributes:
        id: The host's name of it.
        specs: The tools by name, as the host describes them.
        bounds: Bounds of its calls.
        calls: Number of calls so far.
        is_over: It has ended, so nothing more can be called.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        self.id: str = description["run"]
        self.specs: dict[str, Any] = {spec["name"]: spec for spec in description["tools"]}
        self.bounds: dict[str, int] = description["bounds"]
        self.calls = 0
        self.is_over = False


class Call:
    """One call: its run, its number, its frame, and the future of its answer."""

    def __init__(self, run: Run, number: int, frame: bytes) -> None:
        self.run = run
        self.number = number
        self.frame = frame
        self.future: Future[Any] = Future()

    def fail(self, error: ToolError) -> None:
        """Complete the call with an error, unless it is complete."""
        with suppress(Exception):  # it was cancelled or answered meanwhile
            self.future.set_exception(error)

    def succeed(self, value: Any) -> None:
        """Complete the call with its result, unless it is complete."""
        with suppress(Exception):
            self.future.set_result(value)


class ToolClient:
    """The session's end of the socket.

    Args:
        connect: Opens the socket. It is called with the first run that has tools.
        descriptor: The socket where it was inherited. It is closed in forked children.
    """

    def __init__(self, connect: Callable[[], socket.socket], descriptor: int | None = None) -> None:
        self.run: Run | None = None
        self._connect = connect
        self._descriptor = descriptor
        self._socket: socket.socket | None = None
        self._is_closed = False
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        self._active: dict[int, Call] = {}
        self._waiting: deque[Call] = deque()
        self._queue: SimpleQueue[Call | None] = SimpleQueue()

    def begin(self, description: dict[str, Any] | None) -> None:
        """Start a run. Without a description it has no tools."""
        self.run = None if description is None else Run(description)
        if self.run is None or self._socket is not None or self._is_closed:
            return
        try:
            self._socket = self._connect()
        except OSError:
            self._is_closed = True
            return
        for target in (self._write, self._read):
            threading.Thread(target=target, name=f"host-{NAME}", daemon=True).start()

    def end(self) -> None:
        """End the run, and fail its calls."""
        run, self.run = self.run, None
        if run is not None:
            run.is_over = True
            for call in [*self._active.values(), *self._waiting]:
                if call.run is run:
                    self._active.pop(call.number, None)
                    call.fail(ToolError(RUN_ENDED))
            self._queue.put(None)

    def close_after_fork(self) -> None:
        """Close the socket in a forked child."""
        with suppress(OSError):
            if self._socket is not None:
                self._socket.close()
            elif self._descriptor is not None:
                os.close(self._descriptor)

    def submit(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Future[Any]:
        """Start a call. Cancelling the future cancels the call.

        Raises:
            ToolError: It cannot be sent.
        """
        run = self.run
        if os.getpid() != self._pid:
            raise ToolError("a child process cannot call tools; call them in the main process")
        if run is None:
            raise ToolError(NO_RUN)
        if self._is_closed:
            raise ToolError(CLOSED)
        spec = self.find(name)
        payload = encode_arguments(name, bind_arguments(spec, arguments, options))
        if len(payload) > run.bounds["call_bytes"]:
            raise ToolLimitError(
                f"the arguments have {len(payload):,} bytes, and a call may have "
                f"{run.bounds['call_bytes']:,}"
            )
        if run.calls >= run.bounds["calls"]:
            raise ToolLimitError(f"this run has made its {run.calls:,} calls of tools")
        run.calls += 1
        number = next(self._numbers)
        header = json.dumps({"call": number, "run": run.id, "name": name})
        call = Call(run, number, b"%s\n%s" % (header.encode(), payload))
        call.future.add_done_callback(lambda future: self._cancel(call, future))
        self._queue.put(call)
        return call.future

    def find(self, name: str) -> dict[str, Any]:
        """Return the description of a tool.

        Raises:
            ToolArgumentError: The run has no such tool.
        """
        run = self.run
        if run is None:
            raise ToolError(NO_RUN)
        if name not in run.specs:
            raise ToolArgumentError(
                f"no tool is called {name!r}; the tools are {', '.join(run.specs)}"
            )
        return dict(run.specs[name])

    def _cancel(self, call: Call, future: Future[Any]) -> None:
        if future.cancelled():
            header = json.dumps({"cancel": call.number, "run": call.run.id})
            cancelled = Call(call.run, 0, header.encode())
            if self._active.pop(call.number, None) is not None:
                self._queue.put(cancelled)
                self._queue.put(None)

    def _write(self) -> None:
        try:
            while True:
                item = self._queue.get()
                if item is None:
                    self._send_waiting()
                elif not item.number:
                    self._send(item)
                else:
                    self._waiting.append(item)
                    self._send_waiting()
        except OSError:
            self._close()

    def _send_waiting(self) -> None:
        """Send calls while fewer than the limit are in progress."""
        while self._waiting and len(self._active) < self._waiting[0].run.bounds["at_once"]:
            call = self._waiting.popleft()
            self._active[call.number] = call
            if call.future.done() or call.run.is_over:
                self._active.pop(call.number, None)
                call.fail(ToolError(RUN_ENDED))
                continue
            self._send(call)
            call.frame = b""

    def _send(self, call: Call) -> None:
        if self._socket is not None:
            length = len(call.frame).to_bytes(_LENGTH_BYTES, "big")
            self._socket.sendall(length + call.frame)

    def _read(self) -> None:
        try:
            while True:
                length = int.from_bytes(self._receive(_LENGTH_BYTES), "big")
                self._answer(self._receive(length))
        except (OSError, EOFError, ValueError, LookupError):
            self._close()

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._socket.recv(min(size - len(data), 1 << 20)) if self._socket else b""
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)

    def _answer(self, frame: bytes) -> None:
        header, _, payload = frame.partition(b"\n")
        fields = json.loads(header)
        call = self._active.pop(fields["call"], None)
        if self._waiting:
            self._queue.put(None)
        if call is None:
            return
        try:
            value = json.loads(payload)
        except Exception as error:  # noqa: BLE001 - such as a lack of memory
            call.fail(ToolError(f"the result cannot be read: {type(error).__name__}: {error}"))
            return
        kind = fields.get("error")
        if kind is None:
            call.succeed(value)
        else:
            call.fail(ERRORS.get(kind, ToolError)(value))

    def _close(self) -> None:
        self._is_closed = True
        for call in [*self._active.values(), *self._waiting]:
            call.fail(ToolError(CLOSED))
        self._active.clear()
        self._waiting.clear()
        if self._socket is not None:
            with suppress(OSError):  # it wakes the other thread
                self._socket.shutdown(socket.SHUT_RDWR)


class Tools:
    """The functions of the host that this run may call: `tools.NAME(...)`."""

    ToolError = ToolError
    ToolArgumentError = ToolArgumentError
    ToolDeniedError = ToolDeniedError
    ToolLimitError = ToolLimitError
    ToolTimeoutError = ToolTimeoutError

    def __init__(self, client: ToolClient) -> None:
        self.__client = client

    def call(self, name: str, /, *arguments: Any, **options: Any) -> Any:
        """Call a tool and wait for its result."""
        return wait(self.__client.submit(name, arguments, options))

    async def acall(self, name: str, /, *arguments: Any, **options: Any) -> Any:
        """Call a tool without blocking the event loop, such as several by `asyncio.gather`."""
        return await asyncio.wrap_future(self.__client.submit(name, arguments, options))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return build_function(self.__client, self.__client.find(name))
        except ToolArgumentError as error:
            raise AttributeError(str(error)) from None

    def __dir__(self) -> list[str]:
        run = self.__client.run
        return ["acall", "call", *([] if run is None else run.specs)]

    def __repr__(self) -> str:
        run = self.__client.run
        lines = [] if run is None else [build_signature(spec) for spec in run.specs.values()]
        names = [] if run is None else list(run.specs)
        shown = [f"{NAME}.{name}{line}" for name, line in zip(names, lines, strict=True)]
        return "\n".join(shown) or f"<{NAME}: {NO_RUN}>"


def wait(future: Future[Any]) -> Any:
    """Return the result of a call. An interrupt cancels it."""
    try:
        return future.result()
    except ToolError as error:
        raise error.with_traceback(None) from None
    except BaseException:
        future.cancel()
        raise


def build_function(client: ToolClient, spec: dict[str, Any]) -> Any:
    """Build the function of a tool, with its signature and its documentation."""

    def call(*arguments: Any, **options: Any) -> Any:
        return wait(client.submit(spec["name"], arguments, options))

    call.__name__ = call.__qualname__ = spec["name"]
    call.__module__ = NAME
    call.__doc__ = spec["documentation"]
    call.__signature__ = build_signature(spec)  # type: ignore[attr-defined]
    return call


def install_tools(kernel: Any, address: dict[str, Any] | None) -> None:
    """Let the runs of a kernel call the host's tools.

    `tools` is a builtin from the first run with tools on, so a variable of that name stays the
    code's own.

    Args:
        kernel: The kernel.
        address: How to reach the host, for `open_channel`. None if it cannot be reached.
    """
    if address is None:
        return
    client = ToolClient(lambda: open_channel(address), address.get("descriptor"))
    do_execute = kernel.do_execute

    async def execute(*arguments: Any, **options: Any) -> Any:
        description = kernel.get_parent("shell").get("metadata", {}).get(METADATA_KEY)
        client.begin(description)
        if description is not None and not hasattr(builtins, NAME):
            setattr(builtins, NAME, Tools(client))
        try:
            return await do_execute(*arguments, **options)
        finally:
            client.end()

    kernel.do_execute = execute
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=client.close_after_fork)


def open_channel(address: dict[str, Any]) -> socket.socket:
    """Open the socket to the host: an inherited one, or a connection to its loopback address.

    Args:
        address: Either its `descriptor`, or the `port` and the `key` that proves who connects.
    """
    if "descriptor" in address:
        return socket.socket(fileno=address["descriptor"])
    import hmac  # noqa: PLC0415 - it is needed on Windows only

    connection = socket.create_connection(("127.0.0.1", address["port"]))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else frames wait 40 ms
    challenge = connection.recv(64, socket.MSG_WAITALL)
    connection.sendall(hmac.digest(address["key"].encode(), challenge, "sha256"))
    return connection
