"""The embedded pool: sessions as sandboxed kernels on this machine."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any

import anyio
from typing_extensions import override

from cci_plugins.common.cancellation import finish_in_thread, run_to_end
from cci_plugins.common.code_text import check_code
from cci_plugins.common.durations import Duration, to_timedelta
from cci_plugins.common.environment import Env, SessionEnvironment, build_session_environment
from cci_plugins.common.limits import SandboxLimits
from cci_plugins.common.log import logger
from cci_plugins.common.packages import get_installed_packages
from cci_plugins.common.settings import PRELOAD, IsolationName
from cci_plugins.common.threads import run_in_thread
from cci_plugins.errors import CodeInterpreterError, ConfigurationError, SessionLostError
from cci_plugins.models import Execution, FileInfo, SessionInfo
from cci_plugins.pools.base import (
    Capabilities,
    OutputHandler,
    SessionPool,
    build_changed_error,
    check_code_size,
)
from cci_plugins.pools.folder_notes import add_folder_note
from cci_plugins.pools.package_pools import PackageExchange
from cci_plugins.pools.tool_host import ToolHost

if find_spec("jupyter_client") is None:  # the kernels need it, and this process does not
    raise ConfigurationError(
        "the embedded pool needs jupyter_client.asynchronous",
        hint='pip install "cci-plugins[local]"',
    )
try:
    from . import pool_errors
    from .egress import Egress, check_egress, describe_egress, parse_egress_rules
    from .isolation import choose, get_first_choice, host_folder
    from .isolation.base import Isolation, KernelSpec
    from .isolation.managed_process import check_child_signal
    from .kernel import EXITED_BETWEEN_CALLS, Kernel, KernelExitedError
    from .launching import EarlyKernel, launch
    from .packages.notes import NO_INDEX
    from .packages.received import build_unknown_upload_error
    from .packages.session_packages import PoolPackages
    from .packages.source import build_source
    from .session import LocalSession, build_replaced_error, read_stamp
    from .warm_pool import WarmPool
    from .watchdog import Watchdog
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"the embedded pool needs {missing.name}", hint='pip install "cci-plugins[local]"'
    ) from missing

MAX_LOSS_REASONS = 10_000
READ_BYTES = 256 * 1024
RESTART_SECONDS = 3.0  # for code that runs to stop, so that it leaves no file half written
NOT_STARTED = "its Python did not start"
COPY_SECONDS = 600.0  # for the files of code that does not stop, which die with its kernel


class LocalSessionPool(SessionPool, PackageExchange):
    """The default pool: sessions as sandboxed child processes of this application.

    Every session is one Jupyter kernel in the strongest sandbox that holds on this machine.
    Nothing of it outlives the application. Sessions share this machine's operating system kernel.
    That suits code that a model wrote. For hostile tenants use Azure's Hyper-V sessions.

    Args:
        isolation: `auto`, or an isolation backend by name. `process` does not isolate, and `auto`
            never chooses it.
        python: Interpreter of the sessions, with ipykernel. None uses this application's own.
        max_sessions: Largest number of sessions at once.
        ready_sessions: Number of kernels to keep warm.
        cooldown: Time after which an unused session is ended, as in Azure, in seconds or as a
            `timedelta`.
        limits: Limits of each session.
        preload: Modules that warm kernels import if they are installed.
        egress: Hosts that sessions may reach through an egress proxy: `none`, `all` public ones,
            or names. A private address is reached only if a rule names that one host.
        environment: Variables for the code in each session, by name: text, or a `Secret` that
            output does not show. They do not act on this application.
        total_memory_bytes: Memory that all sessions may use together. Beyond it, the session that
            uses most is ended. None for no such limit.
        packages: Packages to install into each session, such as `duckdb>=1`.
        package_index: Where packages come from: a folder of wheels, or the address of an index.
            None means the installer's default.
        allowed_packages: Names of packages that may be installed, with what they need. None for
            any.
        package_lock: A requirements file with the only versions that may be installed, and their
            hashes. It must also have what they need. None for any.

    Example:
        ```python
        pool = LocalSessionPool(max_sessions=4, cooldown=timedelta(minutes=5))
        async with CodeInterpreter(pool) as interpreter:
            execution = await interpreter.run_code("6 * 7")
            assert execution.text == "42"
        ```
    """

    capabilities = Capabilities(
        name="local",
        streams_output=True,
        lists_sessions=True,
        host_tools=True,
        env=True,
        background_runs=True,
        packages=True,
    )

    def __init__(
        self,
        *,
        isolation: IsolationName = "auto",
        python: str | os.PathLike[str] | None = None,
        max_sessions: int = 32,
        ready_sessions: int = 1,
        cooldown: Duration = timedelta(minutes=30),
        limits: SandboxLimits | None = None,
        preload: tuple[str, ...] = PRELOAD,
        egress: Egress = "none",
        environment: Env | None = None,
        total_memory_bytes: int | None = None,
        packages: Sequence[str] = (),
        package_index: str | os.PathLike[str] | None = None,
        allowed_packages: Sequence[str] | None = None,
        package_lock: str | os.PathLike[str] | None = None,
    ) -> None:
        if max_sessions < 1 or ready_sessions < 0:
            raise ConfigurationError(
                f"max_sessions must be at least 1 and ready_sessions at least 0, "
                f"not {max_sessions} and {ready_sessions}",
                hint="pass a larger number",
            )
        self._isolation_name: IsolationName = isolation
        self._python = Path(python or sys.executable)
        self._max_sessions = max_sessions
        self._cooldown = to_timedelta(cooldown, "cooldown")
        self._limits = SandboxLimits() if limits is None else limits
        self._preload = preload
        self._egress = egress
        self._rules = parse_egress_rules(egress)
        self._environment = build_session_environment(environment or {})
        self._total_memory_bytes = total_memory_bytes
        source = build_source(self._python, package_index, allowed_packages, package_lock)
        self._packages = PoolPackages(source, packages)
        if not self._rules and isolation != "process":  # every other backend closes the network
            self.capabilities = replace(self.capabilities, egress=False)
        if isolation not in {"auto", "bwrap"}:  # `auto` is known from the start on
            self.capabilities = replace(self.capabilities, folder=host_folder.get_folder())
        self._sessions: dict[str, LocalSession] = {}
        self._loss_reasons: OrderedDict[str, str] = OrderedDict()
        self._warm_pool = WarmPool(ready_sessions, self._start_kernel)
        self._isolation: Isolation | None = None
        self._start_lock = anyio.Lock()
        self._launch_limiter = anyio.CapacityLimiter(max(2, os.cpu_count() or 1))
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closed = False
        self._pid = os.getpid()
        self._expects_session = False

    @property
    @override
    def known_packages(self) -> tuple[str, ...]:
        return get_installed_packages() if self._python == Path(sys.executable) else ()

    @override
    async def start(self) -> None:
        if self._pid != os.getpid():
            raise pool_errors.build_forked_error()
        if self._isolation is not None:
            return
        async with self._start_lock, pool_errors.translate_refusals("the pool cannot start"):
            if self._isolation is None:
                await self._start_checked()

    async def _start_checked(self) -> None:
        """Choose the isolation backend by its self-check, and start what the pool needs."""
        self._check_not_closed()
        early = await self._begin_early_kernel()
        try:
            isolation = await choose(self._isolation_name, self._build_spec())
            self._check_not_closed()
            if early is None:
                await self._packages.start()
            self.capabilities = replace(
                self.capabilities,
                isolation=isolation.describe() + describe_egress(self._egress),
                folder=isolation.folder,
                egress=check_egress(self._egress, isolation.name),
            )
            if early is not None:
                if (kernel := early.use(isolation)) is not None:
                    self._warm_pool.add(kernel)
                await early.close()
        except BaseException:
            if early is not None:
                await early.close()
            await self._packages.close()
            raise
        self._isolation = isolation
        watchdog = Watchdog(self._limits, self._iter_kernels, self._total_memory_bytes)
        self._tasks = [*map(asyncio.create_task, (watchdog.run(), self._end_idle_sessions()))]
        self._warm_pool.fill()

    def expect_session(self) -> None:
        """Have `start` launch a first kernel at once, because a session will need it."""
        self._expects_session = True

    async def _begin_early_kernel(self) -> EarlyKernel | None:
        check_child_signal()
        isolation = get_first_choice(self._isolation_name, self._limits)
        if isolation is None or not self._expects_session or self._packages.has_specifications:
            return None
        await self._packages.start()
        return EarlyKernel(isolation, partial(self._start_kernel, warm=self._warm_pool.size > 0))

    def _check_not_closed(self) -> None:
        if self._is_closed:
            raise pool_errors.build_closed_error()

    @override
    async def execute(
        self,
        session_id: str,
        code: str,
        *,
        timeout: Duration,
        on_output: OutputHandler | None = None,
        instance: str | None = None,
        tools: ToolHost | None = None,
        env: SessionEnvironment | None = None,
    ) -> Execution:
        check_code(code)
        check_code_size(code)
        limit = to_timedelta(timeout, "timeout")
        async with self._use_session(session_id) as session, session.run_lock:
            try:
                kernel = await self._ensure_kernel(session, instance)
                execution = await session.execute(
                    kernel, code, limit, on_output, tools=tools, env=env
                )
            except KernelExitedError:  # the code did not start, so it may be sent again
                kernel = await self._ensure_kernel(session, instance)
                execution = await session.execute(
                    kernel, code, limit, on_output, tools=tools, env=env
                )
        execution = replace(execution, isolation=self._isolation.name if self._isolation else "")
        execution = await session.packages.add_note(execution, code, self.capabilities)
        return add_folder_note(execution, self.capabilities.folder)

    @override
    async def upload(self, session_id: str, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        async with self._use_session(session_id) as session:
            kernel = await self._ensure_kernel(session)
            return await session.upload(kernel.sandbox.folder, name, content)

    @override
    async def download(self, session_id: str, name: str) -> AsyncIterator[bytes]:
        async with self._use_session(session_id) as session:
            folder = (await self._ensure_kernel(session)).sandbox.folder
            opened = await finish_in_thread(folder.open_read, name, discard=os.close)
            with os.fdopen(opened, "rb") as file:
                before = read_stamp(file.fileno())
                while chunk := await run_in_thread(file.read, READ_BYTES):
                    yield chunk
                if before != read_stamp(file.fileno()):
                    raise build_changed_error(name)

    @override
    async def list_files(self, session_id: str) -> list[FileInfo]:
        async with self._use_session(session_id) as session:
            folder = (await self._ensure_kernel(session)).sandbox.folder
            return await run_in_thread(session.list_files, folder)

    @override
    async def delete_file(self, session_id: str, name: str) -> None:
        async with self._use_session(session_id) as session:
            folder = (await self._ensure_kernel(session)).sandbox.folder
            await finish_in_thread(folder.remove, name)

    @override
    async def delete_session(self, session_id: str) -> None:
        self._loss_reasons.pop(session_id, None)
        session = self._sessions.pop(session_id, None)
        if session is not None:
            await session.end("it was deleted")

    @override
    async def interrupt(self, session_id: str) -> bool:
        session = self._sessions.get(session_id)
        return session is not None and session.kernel is not None and session.kernel.interrupt()

    @override
    async def install_packages(self, session_id: str, packages: Sequence[str]) -> Mapping[str, str]:
        async with self._change_packages(session_id) as session:
            return await session.packages.install(packages)

    @override
    async def get_instance(self, session_id: str) -> str | None:
        async with self._use_session(session_id) as session:
            if session.kernel is not None:  # one that has died would name the instance before
                await self._ensure_kernel(session)
            return session.instance

    @override
    async def exchange_packages(
        self, session_id: str, message: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        if message and session_id not in self._sessions:
            raise build_unknown_upload_error()
        async with self._change_packages(session_id) as session:
            answer = await session.packages.answer(message)
            return answer if message else {**answer, "instance": session.instance}

    @asynccontextmanager
    async def _change_packages(self, session_id: str) -> AsyncIterator[LocalSession]:
        async with self._use_session(session_id) as session, session.run_lock:
            try:
                yield session
            finally:
                if session.is_ended:
                    await run_to_end(session.packages.close())
            if session.is_ended:
                raise SessionLostError("the session was deleted while packages were installed")

    @override
    async def restart_session(self, session_id: str) -> bool:
        if session_id not in self._sessions:
            return True
        async with self._use_session(session_id) as session, session.start_lock:
            old = session.kernel
            if old is None or not old.is_alive:  # the next call starts another one
                return True
            if old.interrupt(RESTART_SECONDS + COPY_SECONDS):
                with anyio.move_on_after(RESTART_SECONDS):
                    await session.wait_idle()
            kernel = await self._warm_pool.allocate()
            if session.is_ended:
                await kernel.close()
                raise SessionLostError("the session was deleted while it restarted")
            await session.replace_kernel(kernel)
        return True

    @override
    async def list_sessions(self) -> list[SessionInfo]:
        return [session.build_info(self._cooldown) for session in self._sessions.values()]

    @override
    async def aclose(self) -> None:
        self._is_closed = True
        await run_to_end(self._close())

    async def _close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._warm_pool.close()
        sessions, self._sessions = list(self._sessions.values()), {}
        await asyncio.gather(*(session.end("the pool was closed") for session in sessions))
        await self._packages.close()
        self._isolation = None

    @asynccontextmanager
    async def _use_session(self, session_id: str) -> AsyncIterator[LocalSession]:
        self._expects_session = True
        await self.start()
        self._check_not_closed()
        session = self._sessions.get(session_id) or self._allocate(session_id)
        session.active_calls += 1
        session.touch()
        try:
            yield session
        finally:
            session.active_calls -= 1
            session.touch()

    def _allocate(self, session_id: str) -> LocalSession:
        if len(self._sessions) >= self._max_sessions:
            oldest = min(session.last_used for session in self._sessions.values())
            wait = oldest + self._cooldown.total_seconds() - time.monotonic()
            raise pool_errors.build_exhausted_error(self._max_sessions, max(wait, 0.0))
        session = LocalSession(
            session_id,
            self._loss_reasons.pop(session_id, None),
            max_files=self._limits.file_count,
            packages=self._packages.create_session(),
        )
        self._sessions[session_id] = session
        return session

    async def _ensure_kernel(self, session: LocalSession, instance: str | None = None) -> Kernel:
        """Return the session's kernel. Start a new one if it is missing or has died.

        Args:
            session: The session.
            instance: The instance that the session must still be, or None.

        Raises:
            SessionLostError: The session was deleted, or it is no longer that instance.
        """
        async with session.start_lock:
            if session.is_ended:
                raise SessionLostError("the session was deleted while this call waited for it")
            if session.kernel is not None and session.kernel.is_alive:
                if instance is not None and instance != session.instance:
                    raise build_replaced_error(session)
                return session.kernel
            if session.kernel is not None:
                session.loss_reason = session.kernel.kill_reason or EXITED_BETWEEN_CALLS
                await session.close_kernel()
            try:
                kernel = await self._warm_pool.allocate()
            except BaseException:
                # another call that waits for this session starts its Python
                if session.active_calls == 1 and self._sessions.get(session.id) is session:
                    del self._sessions[session.id]
                    if session.loss_reason is not None or session.packages.has_own:
                        self._note_loss(session.id, session.loss_reason or NOT_STARTED)
                    await session.end(NOT_STARTED)
                raise
            if session.is_ended:  # while the kernel started
                await kernel.close()
                raise SessionLostError("the session was deleted while this call waited for it")
            session.attach_kernel(kernel)
            if instance is not None:
                raise build_replaced_error(session)
            return kernel

    async def _start_kernel(self, early: EarlyKernel | None = None, *, warm: bool) -> Kernel:
        isolation = self._isolation if early is None else early.isolation
        if isolation is None or self._is_closed:
            raise pool_errors.build_closed_error()
        async with self._launch_limiter, pool_errors.translate_refusals("cannot start a kernel"):
            packages = self._packages.create_folder()
            try:
                sandbox = await launch(isolation, self._build_spec(packages.path))
                if early is not None:
                    await early.wait_passed(sandbox)
                preload = self._preload if warm else ()
                kernel = await Kernel.start(sandbox, self._limits, preload, self._rules)
            except BaseException:
                await run_to_end(packages.close())
                raise
            kernel.packages = packages
            return kernel

    def _build_spec(self, packages: Path | None = None) -> KernelSpec:
        without_index = NO_INDEX if self.capabilities.egress is False else {}
        environment = {**without_index, **self._environment.values}
        return KernelSpec(
            self._python, token_hex(32), self._limits, environment=environment, packages=packages
        )

    def _iter_kernels(self) -> Iterator[tuple[Kernel, bool]]:
        """Yield every kernel that a session holds, and whether it is in use now."""
        for session in self._sessions.values():
            if session.kernel is not None:
                yield session.kernel, session.active_calls > 0

    async def _end_idle_sessions(self) -> None:
        cooldown = self._cooldown.total_seconds()
        while True:
            await asyncio.sleep(max(0.05, min(cooldown / 4, 15)))
            now = time.monotonic()
            for session in list(self._sessions.values()):
                if session.active_calls == 0 and now - session.last_used > cooldown:
                    await self._end_idle(session)

    def _note_loss(self, session_id: str, reason: str) -> None:
        self._loss_reasons[session_id] = reason
        if len(self._loss_reasons) > MAX_LOSS_REASONS:
            self._loss_reasons.popitem(last=False)

    async def _end_idle(self, session: LocalSession) -> None:
        del self._sessions[session.id]
        self._note_loss(session.id, f"it was not used for {self._cooldown.total_seconds():g} s")
        try:
            await session.end("it was not used")
        except CodeInterpreterError as error:
            logger.warning("an idle session did not end cleanly: %s", error)
