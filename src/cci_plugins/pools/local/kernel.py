"""One Jupyter kernel behind its fence: run a cell, stop it, know when it died."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, cast

import anyio
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.connect import KernelConnectionInfo

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.errors import PoolUnavailableError
from cci_plugins.in_session.source import DATA, session_source
from cci_plugins.pools.base import OutputHandler

from .egress import Rule
from .isolation.base import Sandbox
from .output import Collector, error_from

if TYPE_CHECKING:
    from .egress_proxy import EgressProxy

_INSIDE = (*DATA, "in_session/proxy_relay.py", "in_session/kernel_setup.py")
START_SECONDS = 60
INTERRUPT_AGAIN_SECONDS = 1.0
INTERRUPT_SECONDS = 5.0  # a loaded machine takes its time to unwind
IDLE_SECONDS = 1.0
MAX_MESSAGE_BYTES = 48 << 20


class KernelGoneError(Exception):
    """The kernel could not be told: nothing of this run was started."""


class End(StrEnum):
    """How a run ended, as the kernel's side saw it."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"  # by us, and the kernel lives
    KILLED = "killed"  # it did not stop when interrupted
    DIED = "died"  # by itself, or by the watchdog


def make_context() -> zmq.asyncio.Context:
    """A ZeroMQ context that neither trusts nor waits for its peers.

    A session's code can replace its sockets: never reconnect by path, never block in a send,
    and drop a peer that sends more than `MAX_MESSAGE_BYTES` at once.
    """
    context = zmq.asyncio.Context()
    context.setsockopt(zmq.RECONNECT_IVL, -1)
    context.setsockopt(zmq.SNDTIMEO, 0)
    context.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    context.setsockopt(zmq.LINGER, 0)
    return context


class _Run:
    """One execute request under way: complete when its reply and its idle status are here."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.complete = False
        self.wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.msg_id = ""
        self._replied = False
        self._idle = False

    def take(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "status":
            self._idle = self._idle or content.get("execution_state") == "idle"
        else:
            self.collector.take(kind, content)
            if self.collector.runaway:
                self._wake_up()
        self._check()

    def reply(self, content: dict[str, Any]) -> None:
        self._replied = True
        if content.get("status") == "error" and self.collector.error is None:
            self.collector.error = error_from(content)
        self._check()
        if not self.complete:
            # The idle message can get lost in a flood of output; the reply cannot.
            asyncio.get_running_loop().call_later(IDLE_SECONDS, self.finish)

    def _check(self) -> None:
        if self._replied and self._idle:
            self.finish()

    def finish(self) -> None:
        """Nothing more is to come: the reply is here, or the kernel is gone."""
        self.complete = True
        self._wake_up()

    def _wake_up(self) -> None:
        if not self.wake.done():
            self.wake.set_result(None)

    async def settle(self, timeout: float) -> bool:
        """Wait until it is complete, has put out too much, or the time (seconds) is over."""
        if not self.complete:
            loop = asyncio.get_running_loop()
            self.wake = loop.create_future()
            timer = loop.call_later(timeout, self._wake_up)
            try:
                await self.wake
            finally:
                timer.cancel()
        return self.complete


class Kernel:
    """A running kernel; make it with `await Kernel.start(...)`.

    Attributes:
        sandbox: Its fence and folder.
        death: Why it was ended by us, in words, or None.
    """

    def __init__(
        self, sandbox: Sandbox, context: zmq.asyncio.Context, limits: SandboxLimits
    ) -> None:
        self.sandbox = sandbox
        self.death: str | None = None
        self._limits = limits
        self._run: _Run | None = None
        self._on_any: Callable[[], object] | None = None
        self._egress: EgressProxy | None = None
        self._client = AsyncKernelClient(context=context)
        self._client.load_connection_info(cast("KernelConnectionInfo", sandbox.connection))
        self._client.start_channels(stdin=False, hb=False)
        self._monitor = self._client.iopub_channel.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._exit: asyncio.Task[int] = asyncio.create_task(sandbox.wait())
        self._exit.add_done_callback(self._on_exit)
        self._readers = [
            asyncio.create_task(self._read(self._client.iopub_channel, self._on_iopub)),
            asyncio.create_task(self._read(self._client.shell_channel, self._on_reply)),
            asyncio.create_task(self._watch_connection()),
        ]

    @classmethod
    async def start(
        cls,
        sandbox: Sandbox,
        context: zmq.asyncio.Context,
        limits: SandboxLimits,
        preload: tuple[str, ...] = (),
        rules: tuple[Rule, ...] = (),
    ) -> Kernel:
        """Connect to a launched kernel, wait until it answers, and set it up.

        Args:
            sandbox: Where it was launched.
            context: For its sockets.
            limits: What the session may use.
            preload: Modules that it imports.
            rules: Hosts that it may reach, where its fence has a way out.

        Raises:
            PoolUnavailableError: It did not answer in time; it has been ended.
        """
        kernel = cls(sandbox, context, limits)
        source = session_source(*_INSIDE)
        code = f"exec({source!r}, (ns := {{'__name__': 'cci'}}))\n"
        way_out = kernel._open_way_out(rules)
        code += (
            f"ns['install'](get_ipython(), {list(preload)!r}, {2 * limits.runaway_bytes}, "
            f"{way_out!r})\ndel ns"
        )
        try:
            with anyio.fail_after(START_SECONDS):
                await kernel._subscribed()
                end, collector = await kernel.run(code, timeout=START_SECONDS, silent=True)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await kernel.close()
            if isinstance(error, TimeoutError):
                raise PoolUnavailableError("a kernel did not start in time") from None
            raise
        if end is not End.FINISHED or collector.error is not None:
            await kernel.close()
            why = collector.error or f"it {end.value}"
            raise PoolUnavailableError(f"a kernel could not be set up: {why}")
        return kernel

    def _open_way_out(self, rules: tuple[Rule, ...]) -> str | None:
        """Serve the session's proxy; where it finds it, or None when it shall have none."""
        doorway = self.sandbox.doorway() if rules else None
        if doorway is None:
            return None
        from .egress_proxy import EgressProxy  # noqa: PLC0415 - it needs Unix sockets

        self._egress = EgressProxy(doorway[0], rules)
        return doorway[1]

    @property
    def alive(self) -> bool:
        """Whether the kernel's process runs."""
        return not self._exit.done()

    @property
    def exit_status(self) -> int | None:
        """Exit status of the kernel's process, 128 + n for signal n; None while it runs."""
        return self._exit.result() if self._exit.done() and not self._exit.cancelled() else None

    async def run(
        self,
        code: str,
        *,
        timeout: float,
        on_output: OutputHandler | None = None,
        silent: bool = False,
    ) -> tuple[End, Collector]:
        """Run one cell.

        Args:
            code: The source.
            timeout: Seconds until the code is interrupted, and a little later killed.
            on_output: Told each piece of output.
            silent: Count nothing and keep no history.

        Raises:
            KernelGoneError: Nothing was started.
        """
        collector = Collector(self._limits, on_output)
        run = self._run = _Run(collector)
        try:
            run.msg_id = self._client.execute(
                code, silent=silent, store_history=not silent, allow_stdin=False
            )
        except zmq.Again:
            self._run = None
            await self.kill("its process ended between two calls")
            raise KernelGoneError from None
        if not self.alive:
            run.finish()  # it died before it could be told
        try:
            return await self._await_end(run, timeout), collector
        except asyncio.CancelledError:
            if not silent:  # a kernel that is only being set up is ended, not interrupted
                with anyio.CancelScope(shield=True):
                    await self._stop(run)
            raise
        finally:
            self._run = None

    async def close(self) -> None:
        """End the kernel and everything of its session."""
        for task in self._readers:
            task.cancel()
        self._client.iopub_channel.socket.disable_monitor()
        self._monitor.close(linger=0)
        self._client.stop_channels()
        if self._egress is not None:
            await anyio.to_thread.run_sync(self._egress.close)
        await self.sandbox.kill()
        await asyncio.gather(self._exit, *self._readers, return_exceptions=True)

    async def kill(self, why: str) -> None:
        """End the kernel for a reason that its next caller is told."""
        self.death = self.death or why
        await self.sandbox.kill()

    async def _await_end(self, run: _Run, timeout: float) -> End:
        if await run.settle(timeout):
            return End.FINISHED if self.alive and self.death is None else End.DIED
        return await self._stop(run)

    async def _stop(self, run: _Run) -> End:
        """Interrupt, and kill what does not stop."""
        with suppress(zmq.Again):  # it is ending already
            self._client.control_channel.send(self._client.session.msg("interrupt_request", {}))
        deadline = time.monotonic() + INTERRUPT_SECONDS
        await run.settle(INTERRUPT_AGAIN_SECONDS)
        if not run.complete and run.collector.error is None:
            # not at once: a second interrupt would hit the kernel's own code, which then never
            # answers
            self.sandbox.interrupt()
        while not run.complete and time.monotonic() < deadline:  # a runaway wakes it early
            await run.settle(deadline - time.monotonic())
        if run.complete and self.alive:
            return End.INTERRUPTED
        await self.sandbox.kill()
        return End.KILLED

    async def _subscribed(self) -> None:
        """Wait until the kernel's output reaches us: what is published before that is lost."""
        heard = asyncio.Event()
        self._on_any = heard.set
        while not heard.is_set():
            if not self.alive:
                raise PoolUnavailableError(f"a kernel ended at its start ({self.exit_status})")
            self._client.kernel_info()
            with anyio.move_on_after(0.1):
                await heard.wait()
        self._on_any = None

    async def _watch_connection(self) -> None:
        """End a kernel that ZeroMQ dropped for the size of a message: no reply would ever come."""
        await self._monitor.recv_multipart()
        await asyncio.wait((self._exit,), timeout=IDLE_SECONDS)
        if self.alive:
            await self.kill(f"it put out more than {MAX_MESSAGE_BYTES >> 20} MiB at once")

    async def _read(self, channel: Any, handle: Callable[[str, str, dict[str, Any]], None]) -> None:
        while True:
            frames = await channel.socket.recv_multipart()
            try:
                message = self._open(frames)
            except (ValueError, TypeError, LookupError):
                continue  # forged or broken: the session's own code wrote it
            if message is not None:
                handle(*message)

    def _open(self, frames: list[bytes]) -> tuple[str, str, dict[str, Any]] | None:
        """Kind, request id and content of a message, or None when its signature is wrong.

        As `Session.deserialize` does it, without parsing dates that nobody reads here.
        """
        session = self._client.session
        _, (signature, *parts) = session.feed_identities(frames)
        parts = parts[:4]
        if not compare_digest(session.sign(parts), signature):
            return None
        header, parent, _, content = map(session.unpack, parts)
        if not isinstance(content, dict):
            return None
        return str(header["msg_type"]), str(parent.get("msg_id")), content

    def _on_iopub(self, kind: str, parent: str, content: dict[str, Any]) -> None:
        if self._on_any is not None:
            self._on_any()
        if self._run is not None and parent == self._run.msg_id:
            self._run.take(kind, content)

    def _on_reply(self, kind: str, parent: str, content: dict[str, Any]) -> None:
        if kind == "execute_reply" and self._run is not None and parent == self._run.msg_id:
            self._run.reply(content)

    def _on_exit(self, _: object) -> None:
        if self._run is not None:
            self._run.finish()  # the reply will never come
