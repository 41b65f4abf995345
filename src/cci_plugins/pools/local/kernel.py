"""One Jupyter kernel in its sandbox: `Kernel` runs code, interrupts it and notices its death.

The kernel runs untrusted code. That code can read the key of the messages and write to the
sockets. So no message is trusted, no call waits for the kernel without a limit, and the kernel's
output never holds up another session (`kernel_reader`).

States of a kernel: starting (`start` connects and runs the setup code), idle, running (`_request`
is set), dead (the process exited, `kill_reason` is set if `kill` ended it), closed. `close`
releases tasks, sockets, egress proxy and sandbox. A dead kernel must be closed, too.

States of a run (`ExecuteRequest`): sent, then complete. It is complete when its reply and the
idle status have arrived, or when the process exited. Reply and status use two channels, so either
may come first. Code can keep the idle status from being sent, so after the reply the run ends once
no output has arrived for `IDLE_SECONDS`, and at its limit at the latest.

A run that is late, prints too much or is cancelled is interrupted, again every second, by a
message and by SIGINT in turn.
`in_session/interrupts` ignores an interrupt that meets the kernel's own code. The kernel is also
asked for its info: an answer means that the run is over, even if its reply was lost. Without
either after `INTERRUPT_SECONDS`, the kernel is killed. `RunOutcome` names the end.

Who may call: one event loop, which also owns the connections. Calls of `run` must not overlap
(`LocalSession.run_lock`). `kill` may be called at any time, `close` when no call needs the kernel.

Order of messages: the first run waits until any message has arrived on the output channel.
The kernel drops what it publishes before the subscription has reached it.

What must never happen:
- Code runs twice. Only `KernelExitedError` means that the code did not start. A later exit is
  `RunOutcome.DIED`, because the code may have started.
- A run waits for a reply that cannot come. The exit of the process completes the request. A
  kernel whose connection closed, or whose messages cannot be read, is killed with the reason.
- A message of an earlier run counts for this one: both handlers compare the request's id.
- A second interrupt follows at once. The code needs a moment to unwind its stack.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import anyio

from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.limits import MIB, SandboxLimits
from cci_plugins.common.log import logger
from cci_plugins.common.threads import run_in_thread
from cci_plugins.errors import PoolUnavailableError
from cci_plugins.in_session.environment import ENVIRONMENT_KEY, PACKAGES_KEY
from cci_plugins.in_session.source import (
    DATA_FORMAT_MODULES,
    PLAIN_PYTHON_MODULES,
    build_session_bytecode,
    build_session_source,
)
from cci_plugins.in_session.usage import USAGE_KEY
from cci_plugins.pools.base import OutputHandler
from cci_plugins.pools.tool_host import ToolHost

from .egress import EgressRule
from .execute_request import IDLE_SECONDS, ExecuteRequest
from .isolation.base import Sandbox
from .kernel_reader import FLOOD_BYTES, FloodGauge, KernelReader
from .kernel_socket import CLOSED, KernelConnectionError, KernelSocket, connect_all
from .messages import MessageCodec
from .output import Collector
from .packages.folder import PackageFolder
from .tool_channel import ToolChannel, ToolRun

if TYPE_CHECKING:
    from .egress_proxy import EgressProxy

_SETUP_MODULES = (
    *DATA_FORMAT_MODULES,
    *PLAIN_PYTHON_MODULES,
    "in_session/background_output.py",
    "in_session/tool_arguments.py",
    "in_session/host_tools.py",
    "in_session/environment.py",
    "in_session/usage.py",
    "in_session/file_backed_maps.py",
    "in_session/memory_limit.py",
    "in_session/output_pace.py",
    "in_session/proxy_relay.py",
    "in_session/kernel_setup.py",
)
_SETUP_KEY = "cci_setup"  # in the metadata of the request, since IPython reads and hashes a cell
_LOAD_SETUP = f"""
ns = {{'__name__': 'cci'}}
setup = get_ipython().kernel.get_parent('shell')['metadata']['{_SETUP_KEY}']
if setup['magic'] == __import__('importlib.util').util.MAGIC_NUMBER.hex():
    parts = __import__('marshal').loads(__import__('base64').b64decode(setup['parts']))
    [exec(part, ns) for part in parts]
    del parts
else:
    exec(setup['source'], ns)
"""
START_SECONDS = 60
INTERRUPT_AGAIN_SECONDS = 1.0
INTERRUPT_SECONDS = 5.0  # a loaded machine needs time to unwind the code's stack
EXITED_BETWEEN_CALLS = "its process ended between two calls"
FLOODED = f"it sent more than {FLOOD_BYTES // MIB:,} MiB of output that nobody reads"
READER_FAILED = "its messages cannot be read"
DID_NOT_STOP = "its code did not stop when interrupted, so the session was ended"


class KernelExitedError(Exception):
    """The kernel exited before it received the request. The code did not start."""


class RunOutcome(StrEnum):
    """The end of a run as the host observed it."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"  # by the host, and the kernel lives
    KILLED = "killed"  # by the host, because it did not stop when interrupted
    DIED = "died"  # by itself, or killed for using more than its limits


class Kernel:
    """A running kernel. Create it with `await Kernel.start(...)`.

    Attributes:
        sandbox: Its sandbox and folder.
        kill_reason: Why the host killed it, as a clause, or None.
        background_characters: Characters of the last run that were printed before it began.
        usage: What the last run used, as the session measured it. It is untrusted.
        was_interrupted: The application stopped the last run.
        packages: The folder of its packages, which is removed with it.
        packages_version: Version of the session's packages in that folder. 0 for none.
    """

    def __init__(
        self, sandbox: Sandbox, sockets: dict[str, KernelSocket], limits: SandboxLimits
    ) -> None:
        self.sandbox = sandbox
        self.kill_reason: str | None = None
        self.background_characters = 0
        self.usage: object = None
        self.was_interrupted = False
        self.packages: PackageFolder | None = None
        self.packages_version = 0
        self._limits = limits
        self._request: ExecuteRequest | None = None
        self._on_first_message: Callable[[], object] | None = None
        self._egress_proxy: EgressProxy | None = None
        self._tool_channel = ToolChannel(sandbox.channel)
        self._sockets = sockets
        self._codec = MessageCodec(sandbox.connection["key"])
        self._gauge = gauge = FloodGauge(self._on_flood)
        self._iopub = KernelReader(sockets["iopub"], self._codec, gauge)
        self._shell = KernelReader(sockets["shell"], self._codec, gauge)
        self._control = KernelReader(sockets["control"], self._codec, gauge)
        self._exit_task: asyncio.Task[int] = asyncio.create_task(sandbox.wait())
        self._exit_task.add_done_callback(self._on_exit)
        self._tasks = [
            asyncio.create_task(self._read(self._iopub, self._is_wanted, self._on_iopub)),
            asyncio.create_task(self._read(self._shell, self._is_wanted, self._on_reply)),
            asyncio.create_task(self._read(self._control, lambda *_: False, self._on_reply)),
        ]

    @classmethod
    async def start(
        cls,
        sandbox: Sandbox,
        limits: SandboxLimits,
        preload: tuple[str, ...] = (),
        rules: tuple[EgressRule, ...] = (),
    ) -> Kernel:
        """Connect to a launched kernel, wait until it answers, and set it up.

        Args:
            sandbox: The sandbox in which it was launched.
            limits: Limits of the session.
            preload: Modules to import.
            rules: Hosts that it may reach, if its sandbox supports an egress proxy.

        Raises:
            PoolUnavailableError: It did not answer in time or its setup failed. It has been ended.
        """
        async with sandbox.kill_on_failure():
            sockets = await connect_all(sandbox.connection)
        kernel = cls(sandbox, sockets, limits)
        try:
            metadata = {_SETUP_KEY: build_setup()}
            proxy_socket = kernel._start_egress_proxy(rules)
            code = _LOAD_SETUP + (
                f"ns['install'](get_ipython(), {list(preload)!r}, {2 * limits.runaway_bytes}, "
                f"{proxy_socket!r}, {limits.memory_bytes})\n"
                f"ns['install_tools'](get_ipython().kernel, {kernel._tool_channel.address!r})\n"
                "ns['install_environment'](get_ipython().kernel)\n"
                "ns['install_usage'](get_ipython().kernel)\ndel ns, setup"
            )
            with anyio.fail_after(START_SECONDS):
                await kernel._wait_subscribed()
                outcome, collector = await kernel.run(
                    code, timeout=START_SECONDS, silent=True, metadata=metadata
                )
        except BaseException as error:
            await kernel.close()
            if isinstance(error, TimeoutError):
                raise PoolUnavailableError(
                    f"the kernel did not answer within {START_SECONDS} s",
                    hint="try again when this machine is less busy",
                ) from None
            raise
        if outcome is not RunOutcome.FINISHED or collector.error is not None:
            await kernel.close()
            reason = collector.error or f"it {outcome.value}"
            raise PoolUnavailableError(
                f"the setup of the kernel failed: {reason}",
                hint="try again; if it repeats, raise the limits of this machine (ulimit -u)",
            )
        return kernel

    def _start_egress_proxy(self, rules: tuple[EgressRule, ...]) -> str | None:
        """Start the session's proxy. Return its path in the session, or None without egress."""
        egress_socket_path = self.sandbox.egress_socket_path() if rules else None
        if egress_socket_path is None:
            return None
        from .egress_proxy import EgressProxy  # noqa: PLC0415 - it needs Unix sockets

        self._egress_proxy = EgressProxy(egress_socket_path[0], rules)
        return egress_socket_path[1]

    @property
    def is_alive(self) -> bool:
        """True while the kernel's process runs."""
        return not self._exit_task.done()

    @property
    def tools_failure(self) -> str | None:
        """Why its code can no longer call host tools, as a clause, or None."""
        return self._tool_channel.failure

    @property
    def exit_status(self) -> int | None:
        """Exit status of the kernel's process, 128 + n for signal n. None while it runs."""
        return (
            self._exit_task.result()
            if self._exit_task.done() and not self._exit_task.cancelled()
            else None
        )

    async def run(
        self,
        code: str,
        *,
        timeout: float,
        on_output: OutputHandler | None = None,
        silent: bool = False,
        tools: ToolHost | None = None,
        environment: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> tuple[RunOutcome, Collector]:
        """Run one cell.

        Args:
            code: The source.
            timeout: Seconds until the code is interrupted. It is killed if it does not stop.
            on_output: Called with each chunk of output.
            silent: Whether to skip IPython's counter and history.
            tools: Answers its calls of host tools.
            environment: Variables to set first, if they are not set yet.
            metadata: More metadata of the request.

        Raises:
            KernelExitedError: The code did not start.
        """
        collector = Collector(self._limits, on_output)
        request = self._request = ExecuteRequest(collector, self._iopub)
        async with ToolRun(self._tool_channel, tools, request.wake_up) as calls:
            given: dict[str, Any] = {**(metadata or {}), **calls.metadata}
            if environment is not None:
                given[ENVIRONMENT_KEY] = dict(environment)
            if self.packages is not None and self.packages_version:
                given[PACKAGES_KEY] = str(self.packages.path)
            await self._send_code(request, code, silent=silent, metadata=given)
            try:
                return await self._await_end(request, timeout, calls), collector
            except asyncio.CancelledError:
                if not silent:  # `start` closes a kernel whose setup was cancelled
                    await run_to_end(self._interrupt_or_kill(request, calls))
                raise
            finally:
                self.background_characters = request.background_characters
                self.usage = request.reply.get(USAGE_KEY)
                self.was_interrupted = request.is_interrupted
                collector.finish(request.reply)
                self._request = None
                self._gauge.end_run()

    async def _send_code(
        self, request: ExecuteRequest, code: str, *, silent: bool, metadata: dict[str, Any]
    ) -> None:
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        self._gauge.start_run()
        try:
            request.msg_id = self._send("shell", "execute_request", content, metadata)
        except KernelConnectionError:
            self._request = None
            self._gauge.end_run()
            await self.kill(EXITED_BETWEEN_CALLS)
            raise KernelExitedError from None
        if not self.is_alive:
            request.finish()  # it exited before `_on_exit` could complete this request

    async def close(self, kill_reason: str | None = None) -> None:
        """End the kernel and everything of its session, also if the caller is cancelled.

        Args:
            kill_reason: Kill it first with this reason, so that its run ends before its sockets.
        """
        await run_to_end(self._close(kill_reason))

    async def _close(self, kill_reason: str | None) -> None:
        if kill_reason is not None:
            await self.kill(kill_reason)
        for task in self._tasks:
            task.cancel()
        for socket in self._sockets.values():
            socket.close()
        if self._egress_proxy is not None:
            await run_in_thread(self._egress_proxy.close)
        self._tool_channel.close()
        await self.sandbox.kill()
        if self.packages is not None:
            await self.packages.close()
        await asyncio.gather(self._exit_task, *self._tasks, return_exceptions=True)

    def interrupt(self, patience: float = INTERRUPT_SECONDS) -> bool:
        """Interrupt the run in progress, as at the end of its time. Return whether there is one.

        Args:
            patience: Seconds after which the kernel is killed if the code has not stopped.
        """
        if self._request is None or self._request.has_reply:
            return False
        self._request.interrupt(patience)
        return True

    async def kill(self, reason: str) -> None:
        """End the kernel's process. The next caller is given the first `reason`."""
        self.kill_reason = self.kill_reason or reason
        await run_to_end(self.sandbox.kill())

    async def _await_end(
        self, request: ExecuteRequest, timeout: float, calls: ToolRun
    ) -> RunOutcome:
        is_done = await request.wait_end(timeout, calls.clock)
        if not is_done and request.has_reply and not request.collector.is_runaway:
            request.finish()  # the code has ended, and its output takes too long
        if request.is_complete:
            return (
                RunOutcome.FINISHED
                if self.is_alive and self.kill_reason is None
                else RunOutcome.DIED
            )
        return await self._interrupt_or_kill(request, calls)

    async def _interrupt_or_kill(self, request: ExecuteRequest, calls: ToolRun) -> RunOutcome:
        """Interrupt the code. Kill the kernel if it neither stops nor answers."""
        calls.stop()
        request.is_stopped = True
        deadline = time.monotonic() + (request.patience or INTERRUPT_SECONDS)
        self._send_interrupt(request)
        again, by_signal = time.monotonic() + INTERRUPT_AGAIN_SECONDS, False
        while not request.is_complete and time.monotonic() < deadline:
            # a runaway wakes it early
            await request.wait_done(max(min(again, deadline) - time.monotonic(), 0))
            if time.monotonic() < again:
                continue
            again += INTERRUPT_AGAIN_SECONDS
            if request.collector.error is None:  # else the code has stopped already
                # one way at a time: code that catches the first of two would meet the second there
                by_signal = not by_signal
                if not (by_signal and self.sandbox.interrupt()):
                    self._send_interrupt(request)
            if not request.probe_id:
                with suppress(KernelConnectionError):
                    request.probe_id = self._send("shell", "kernel_info_request", {})
        if request.has_reply:
            request.finish()
        if request.is_complete and self.is_alive:
            return RunOutcome.INTERRUPTED
        await self.kill(DID_NOT_STOP)
        return RunOutcome.KILLED

    def _send_interrupt(self, request: ExecuteRequest) -> None:
        with suppress(KernelConnectionError):  # it is exiting already
            self._send("control", "interrupt_request", {"run": request.msg_id})

    def _send(
        self,
        channel: str,
        kind: str,
        content: dict[str, Any],
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Send a request, and return its identifier."""
        identifier, frames = self._codec.build(kind, content, metadata)
        self._sockets[channel].send(frames)
        return identifier

    async def _wait_subscribed(self) -> None:
        """Wait until output arrives. What is published before the subscription is dropped."""
        subscribed = asyncio.Event()
        self._on_first_message = subscribed.set
        while not subscribed.is_set():
            if not self.is_alive:
                raise PoolUnavailableError(
                    f"the kernel exited with status {self.exit_status} while it started"
                )
            with suppress(KernelConnectionError):
                self._send("shell", "kernel_info_request", {})
            with anyio.move_on_after(0.1):
                await subscribed.wait()
        self._on_first_message = None

    async def _read(
        self,
        reader: KernelReader,
        is_wanted: Callable[[str, str], bool],
        handle: Callable[[str, str, dict[str, Any], int], None],
    ) -> None:
        """Read a channel to its end. Kill the kernel then, because its run would never end."""
        reason = CLOSED
        try:
            await reader.run(is_wanted, handle)
        except KernelConnectionError as error:
            reason = str(error)
        except Exception:  # noqa: BLE001 - whatever it is, the run would wait without end
            logger.exception("cannot read the messages of a session")
            reason = READER_FAILED
        await asyncio.wait((self._exit_task,), timeout=IDLE_SECONDS)  # a dying kernel closes them
        if self.is_alive:
            await self.kill(reason)

    def _is_wanted(self, kind: str, parent: str) -> bool:
        """Return whether anybody waits for a message. The others are not read."""
        if self._on_first_message is not None:
            return True
        del kind
        if self._request is None or not parent:
            return False
        return parent in {self._request.msg_id, self._request.probe_id}

    def _on_iopub(self, kind: str, parent: str, content: dict[str, Any], size: int) -> None:
        if self._on_first_message is not None:
            self._on_first_message()
        if self._request is not None and parent == self._request.msg_id:
            self._request.handle_message(kind, content, size)

    def _on_reply(self, kind: str, parent: str, content: dict[str, Any], size: int) -> None:
        del size
        if kind == "execute_reply" and self._request is not None and parent == self._request.msg_id:
            self._request.handle_reply(content)
        elif kind == "kernel_info_reply" and self._request and parent == self._request.probe_id:
            self._request.handle_reply({})  # requests are answered in order, so the run is over

    async def _on_flood(self, *, is_over: bool) -> None:
        """Stop the run that sends too much, or end the kernel."""
        if is_over:
            await self.kill(FLOODED)
        elif self._request is not None:
            self._request.note_flood()

    def _on_exit(self, _: object) -> None:
        self.kill_reason = self.kill_reason or self.sandbox.find_memory_kill()
        if self._request is not None:
            self._request.finish()  # the reply cannot arrive any longer


def build_setup() -> dict[str, str]:
    """Build the code that sets up a kernel. It is kept, because compiling takes a while."""
    source = build_session_source(*_SETUP_MODULES)
    return {"source": source, **build_session_bytecode(*_SETUP_MODULES)}
