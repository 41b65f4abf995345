"""Helpers for your tests: a pool without processes, and the contract test of every pool."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from secrets import token_hex
from typing import Any, TypeAlias

import anyio
from typing_extensions import override

from cci_plugins.common.durations import Duration
from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.common.file_names import guess_media_type, validate_name
from cci_plugins.errors import (
    SessionFileNotFoundError,
    SessionLostError,
    ToolCallError,
    UnsafeNameError,
)
from cci_plugins.models import ErrorInfo, Execution, FileInfo, OutputEvent
from cci_plugins.pools.base import Capabilities, OutputHandler, SessionPool
from cci_plugins.pools.tool_host import ToolHost

from .background_runs import a_background_run_outlives_its_call, open_session
from .host_tools import code_calls_host_tools, failed_tool_calls_are_exceptions
from .session_control import (
    LIMIT,
    a_restart_keeps_the_files,
    an_interrupt_keeps_the_state,
    code_sees_the_given_variables,
    packages_are_installed_whole_or_not_at_all,
)
from .session_control import expect as _expect
from .session_control import run_code as _run

__all__ = ["FakeProgram", "FakeSessionPool", "FakeTools", "check_session_pool"]


class FakeTools:
    """The host tools of a run in a `FakeSessionPool`, as a stand-in for `tools` in a session."""

    def __init__(self, host: ToolHost | None) -> None:
        self._host = host

    @property
    def names(self) -> tuple[str, ...]:
        """The tools that the run may call."""
        return () if self._host is None else tuple(spec.name for spec in self._host.specs)

    async def acall(self, name: str, /, **arguments: Any) -> Any:
        """Call a tool as code in a session does, with all checks of the host.

        Raises:
            ToolCallError: The call was refused or has failed.
        """
        if self._host is None:
            raise ToolCallError("no run with host tools is in progress")
        return json.loads(await self._host.call(name, json.dumps(arguments)))


FakeProgram: TypeAlias = Callable[[str, FakeTools], Awaitable[Execution]]
"""A stand-in for code that calls host tools: an async function of the code and the tools."""


_Check: TypeAlias = Callable[[SessionPool, str], Awaitable[None]]


class FakeSessionPool(SessionPool):
    """A pool that returns scripted executions, keeps files in memory and records its calls.

    Args:
        *executions: Returned one after the other. The last one is repeated. An async function
            of the code and a `FakeTools` stands for code that calls host tools, and returns the
            execution.

    Attributes:
        calls: `(session id, code)` of every run, in order.
        environments: Environment variables of the last run of each session.
        restarts: Session ids of every restart, in order.

    Example:
        ```python
        pool = FakeSessionPool(Execution(stdout="42"))
        async with CodeInterpreter(pool) as interpreter:
            assert (await interpreter.run_code("print(6 * 7)")).stdout == "42"
        assert pool.calls[0][1] == "print(6 * 7)"
        ```
    """

    capabilities = Capabilities(
        name="fake", streams_output=True, host_tools=True, env=True, background_runs=True
    )

    def __init__(self, *executions: Execution | FakeProgram) -> None:
        self.calls: list[tuple[str, str]] = []
        self.environments: dict[str, dict[str, str]] = {}
        self.restarts: list[str] = []
        self._runs: dict[str, anyio.CancelScope] = {}
        self._script: list[Execution | FakeProgram] = list(executions) or [Execution()]
        self._files: dict[str, dict[str, bytes]] = {}

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
        self.calls.append((session_id, code))
        self.environments[session_id] = {} if env is None else dict(env.values)
        step = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        execution = (
            step
            if isinstance(step, Execution)
            else await self._run_program(session_id, step(code, FakeTools(tools)))
        )
        if on_output is not None and execution.stdout:
            on_output(OutputEvent("stdout", execution.stdout))
        return execution

    async def _run_program(self, session_id: str, program: Awaitable[Execution]) -> Execution:
        """Wait for a program, or until `interrupt` or `restart_session` ends it."""
        self._runs[session_id] = scope = anyio.CancelScope()
        try:
            with scope:
                return await program
        finally:
            del self._runs[session_id]
        error = ErrorInfo("KeyboardInterrupt", "the application interrupted the code")
        return Execution(error=error, session_id=session_id, status="failed")

    @override
    async def interrupt(self, session_id: str) -> bool:
        if session_id not in self._runs:
            return False
        self._runs[session_id].cancel()
        return True

    @override
    async def restart_session(self, session_id: str) -> bool:
        await self.interrupt(session_id)
        self.restarts.append(session_id)
        return True

    @override
    async def upload(self, session_id: str, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        validate_name(name)
        data = b"".join([chunk async for chunk in content])
        self._files.setdefault(session_id, {})[name] = data
        return FileInfo(name, len(data), guess_media_type(name))

    @override
    async def download(self, session_id: str, name: str) -> AsyncIterator[bytes]:
        yield self._get_file(session_id, name)

    @override
    async def list_files(self, session_id: str) -> list[FileInfo]:
        files = self._files.get(session_id, {})
        return [FileInfo(name, len(files[name]), guess_media_type(name)) for name in sorted(files)]

    @override
    async def delete_file(self, session_id: str, name: str) -> None:
        self._get_file(session_id, name)
        del self._files[session_id][name]

    @override
    async def delete_session(self, session_id: str) -> None:
        self._files.pop(session_id, None)

    def _get_file(self, session_id: str, name: str) -> bytes:
        try:
            return self._files.get(session_id, {})[validate_name(name)]
        except KeyError:
            raise SessionFileNotFoundError(f"the session has no file {name!r}") from None


async def check_session_pool(pool: SessionPool) -> dict[str, str | None]:
    """Check a pool against the contract of `SessionPool`, with real code in new sessions.

    Most checks share a session, as long as none fails in it.

    Args:
        pool: A pool that runs Python. It need not be started, and is not closed.

    Returns:
        The name of each check, with None if it passed, else the reason why it failed.

    Example:
        ```python
        async with LocalSessionPool() as pool:
            report = await check_session_pool(pool)
        assert set(report.values()) == {None}
        ```
    """
    report: dict[str, str | None] = {}
    shared = _create_session_id()
    try:
        for check in _CHECKS:
            if check in _IN_A_NEW_SESSION:
                report[check.__name__] = await _find_fault_in_new_session(check, pool)
            else:
                report[check.__name__] = fault = await _find_fault(check, pool, shared)
                if fault is not None:
                    await pool.delete_session(shared)
                    shared = _create_session_id()
    finally:
        await pool.delete_session(shared)
    return report


def _create_session_id() -> str:
    return f"check-{token_hex(16)}"


async def _find_fault_in_new_session(check: _Check, pool: SessionPool) -> str | None:
    session_id = _create_session_id()
    try:
        return await _find_fault(check, pool, session_id)
    finally:
        await pool.delete_session(session_id)


async def _find_fault(check: _Check, pool: SessionPool, session_id: str) -> str | None:
    try:
        await check(pool, session_id)
    except AssertionError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - any escape is a finding to report
        return f"{type(error).__name__}: {error}"
    return None


async def state_is_kept(pool: SessionPool, session_id: str) -> None:
    """Check that a variable is kept until the next run."""
    await _run(pool, session_id, "x = 41")
    execution = await _run(pool, session_id, "x + 1")
    _expect(condition=execution.text == "42", message=f"x + 1 gave {execution.text!r}")
    _expect(condition=execution.state == "kept", message=f"state {execution.state}")


async def sessions_are_apart(pool: SessionPool, session_id: str) -> None:
    """Check that a variable of one session is not visible in another."""
    other = f"{session_id}-b"
    await _run(pool, session_id, "secret = 1")
    execution = await _run(pool, other, "'secret' in dir()")
    await pool.delete_session(other)
    _expect(condition=execution.text == "False", message="another session sees the variable")


async def an_error_is_a_result(pool: SessionPool, session_id: str) -> None:
    """Check that a traceback is on the execution, and that the session goes on."""
    execution = await _run(pool, session_id, "print('before')\n1/0")
    _expect(condition=execution.error is not None, message="no error on the execution")
    name = execution.error.name if execution.error else ""
    _expect(condition=name == "ZeroDivisionError", message=f"error name {name!r}")
    _expect(condition=execution.status == "failed", message=str(execution.status))
    _expect(condition=execution.stdout == "before\n", message=f"stdout {execution.stdout!r}")


async def streams_are_told_apart(pool: SessionPool, session_id: str) -> None:
    """Check that standard output and error arrive separately, with Unicode intact."""
    code = "import sys\nprint('out \N{SNOWMAN}')\nprint('err', file=sys.stderr)"
    execution = await _run(pool, session_id, code)
    _expect(condition=execution.stdout == "out \N{SNOWMAN}\n", message=repr(execution.stdout))
    _expect(condition="err" in execution.stderr, message=repr(execution.stderr))


async def output_streams_while_code_runs(pool: SessionPool, session_id: str) -> None:
    """Output arrives before the code ends, if the pool's capabilities promise it."""
    if not pool.capabilities.streams_output:
        return
    events: list[tuple[float, OutputEvent]] = []
    execution = await pool.execute(
        session_id,
        "import time\nprint('first', flush=True)\ntime.sleep(2)\nprint('last')",
        timeout=LIMIT,
        on_output=lambda event: events.append((time.monotonic(), event)),
    )
    ended = time.monotonic()
    text = "".join(event.text for _, event in events if event.stream == "stdout")
    _expect(condition=text == execution.stdout != "", message=f"streamed {text!r}")
    seconds = ended - events[0][0]
    _expect(condition=seconds > 1, message=f"output arrived only {seconds:.1f} s before the end")


async def a_time_out_is_a_result(pool: SessionPool, session_id: str) -> None:
    """Check that code beyond its limit is stopped, and that the execution reports it."""
    execution = await _run(
        pool, session_id, "import time\ntime.sleep(60)", timeout=timedelta(seconds=1)
    )
    _expect(condition=execution.status == "timed_out", message=str(execution.status))
    after = await _run(pool, session_id, "1 + 1")
    _expect(condition=after.text == "2", message="the session does not run after a timeout")


async def stdin_fails_at_once(pool: SessionPool, session_id: str) -> None:
    """Check that `input()` raises instead of waiting forever."""
    execution = await _run(pool, session_id, "input('name? ')")
    _expect(condition=execution.error is not None, message="input() did not fail")
    _expect(condition=execution.status == "failed", message=str(execution.status))


async def images_arrive(pool: SessionPool, session_id: str) -> None:
    """Check that a displayed PNG is a result, if the pool returns rich results."""
    if not pool.capabilities.rich_results:
        return
    code = (
        "from base64 import b64decode\nfrom IPython.display import Image, display\n"
        "display(Image(b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
        "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')))"
    )
    execution = await _run(pool, session_id, code)
    images = [result.png for result in execution.results if result.png]
    _expect(condition=len(images) == 1, message=f"{len(images)} images")
    _expect(condition=images[0].startswith(b"\x89PNG"), message="not a PNG")


_OUT = b"A,B\n1,2\n"


async def files_come_and_go(pool: SessionPool, session_id: str) -> None:
    """Check that each side can read, list and remove a file of the other."""

    async def content() -> AsyncIterator[bytes]:
        yield b"a,b\n"
        yield b"1,2\n"

    info = await pool.upload(session_id, "in.csv", content())
    _expect(condition=info.size == 8, message=f"uploaded size {info.size}")  # noqa: PLR2004
    code = "data = open('in.csv').read()\nopen('out.txt', 'w').write(data.upper())"
    execution = await _run(pool, session_id, code)
    _expect(
        condition=[file.name for file in execution.files] == ["out.txt"]
        and execution.files[0].sha256 in {None, hashlib.sha256(_OUT).hexdigest()},
        message=f"files {execution.files}",
    )
    data = b"".join([chunk async for chunk in pool.download(session_id, "out.txt")])
    _expect(condition=data == _OUT, message=f"downloaded {data!r}")
    names = [file.name for file in await pool.list_files(session_id)]
    _expect(condition=names == ["in.csv", "out.txt"], message=f"listed {names}")
    await pool.delete_file(session_id, "in.csv")
    names = [file.name for file in await pool.list_files(session_id)]
    _expect(condition=names == ["out.txt"], message=f"listed {names} after removal")


async def missing_files_are_named(pool: SessionPool, session_id: str) -> None:
    """Check the errors for a missing file and for an unsafe name."""
    await _raises(SessionFileNotFoundError, _read(pool, session_id, "missing.txt"))
    await _raises(UnsafeNameError, _read(pool, session_id, "../secret"))


async def a_deleted_session_starts_anew(pool: SessionPool, session_id: str) -> None:
    """Check that deleting ends the state, and that a second call is allowed."""
    await _run(pool, session_id, "x = 1")
    await pool.delete_session(session_id)
    await pool.delete_session(session_id)
    execution = await _run(pool, session_id, "'x' in dir()")
    _expect(condition=execution.text == "False", message="the variable outlived its session")


async def a_replaced_session_is_noticed(pool: SessionPool, session_id: str) -> None:
    """Check that code does not run in another instance than it needs, if the pool knows them."""
    first = await _run(pool, session_id, "x = 1")
    again = await pool.execute(session_id, "x", timeout=LIMIT, instance=first.instance or None)
    _expect(condition=again.text == "1", message="the known instance was refused")
    if not first.instance:
        return
    await pool.delete_session(session_id)
    try:
        await pool.execute(session_id, "open('ran', 'w')", timeout=LIMIT, instance=first.instance)
    except SessionLostError as error:
        _expect(condition=error.retryable, message="the loss is not retryable")
    else:
        _expect(condition=False, message="the code ran in another instance")
    after = await _run(pool, session_id, "import os; os.path.exists('ran')")
    _expect(condition=after.text == "False", message="the code ran before the loss was reported")


async def a_session_is_saved_and_restored(pool: SessionPool, session_id: str) -> None:
    """Check that files and history of a session come back in another one, after its end."""
    code = (
        "import os\nos.makedirs('d', exist_ok=True)\nopen('d/.out', 'wb').write(bytes(range(256)))"
    )
    with tempfile.TemporaryDirectory(prefix="cci-") as folder:
        first = open_session(pool, session_id)
        await first.files.upload(b"a,b", name="in.csv")
        await first.run_code(code)
        checkpoint = await first.save(folder)
        await pool.delete_session(session_id)
        second = open_session(pool, f"{session_id}-b")
        try:
            await second.restore(checkpoint)
            files = {info.name: await second.files.download(info.name) for info in checkpoint.files}
            listed = [info.name for info in await second.files.list()]
        finally:
            await pool.delete_session(second.id)
    expected = {"d/.out": bytes(range(256)), "in.csv": b"a,b"}
    _expect(condition=files == expected, message=f"restored {sorted(files)}")
    _expect(condition=listed == ["d/.out", "in.csv"], message=f"listed {listed}")
    _expect(condition="os.makedirs" in second.notebook(), message="the history did not come back")


async def _read(pool: SessionPool, session_id: str, name: str) -> None:
    async for _ in pool.download(session_id, name):
        pass


async def _raises(kind: type[Exception], call: Awaitable[None]) -> None:
    try:
        await call
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


_CHECKS: tuple[_Check, ...] = (
    state_is_kept,
    sessions_are_apart,
    an_error_is_a_result,
    streams_are_told_apart,
    output_streams_while_code_runs,
    a_time_out_is_a_result,
    stdin_fails_at_once,
    images_arrive,
    files_come_and_go,
    missing_files_are_named,
    a_deleted_session_starts_anew,
    a_replaced_session_is_noticed,
    a_session_is_saved_and_restored,
    code_calls_host_tools,
    failed_tool_calls_are_exceptions,
    code_sees_the_given_variables,
    an_interrupt_keeps_the_state,
    a_restart_keeps_the_files,
    packages_are_installed_whole_or_not_at_all,
    a_background_run_outlives_its_call,
)
# They expect no file and no variable of another check.
_IN_A_NEW_SESSION = {
    files_come_and_go,
    a_session_is_saved_and_restored,
    a_background_run_outlives_its_call,
}
