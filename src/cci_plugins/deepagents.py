"""Deep Agents: a sandbox backend, where an agent has its files and runs its commands."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from secrets import token_hex
from typing import Any
from weakref import WeakKeyDictionary

from typing_extensions import override

from .common import event_loop
from .common.approval import ApprovalRequest
from .common.log import logger
from .core.interpreter import CodeInterpreter
from .core.session import Session
from .core.session_directory import current_key
from .core.shell.command import CommandResult, run_command
from .core.shell.files import Moved, Told, read_files, write_files
from .errors import CodeInterpreterError, ConfigurationError
from .tools import execute_code

try:
    from deepagents.backends.protocol import (
        ExecuteResponse,
        FileDownloadResponse,
        FileUploadResponse,
    )
    from deepagents.backends.sandbox import BaseSandbox
    from langchain_core.runnables import ensure_config
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"the Deep Agents sandbox needs {missing.name}",
        hint='pip install "cci-plugins[deepagents]"',
    ) from missing

__all__ = ["CodeInterpreterSandbox"]

_HELPERS = ("delete", "edit", "glob", "grep", "ls", "read", "write")
_BROKEN = 124  # and above: a time-out, no shell, a signal
_helping: ContextVar[list[str] | None] = ContextVar("cci_deepagents_helping", default=None)


class CodeInterpreterSandbox(BaseSandbox):
    """A session as the sandbox of a deep agent.

    Commands run by the shell of the session, in its working directory `/mnt/data`. The conversation
    is LangGraph's `thread_id`, so one object serves all threads, each with a session of its own.

    Args:
        interpreter: Where to run; `CodeInterpreter.from_env()` when None.
        session_key: The conversation of every call; when None that of `use_session`, else the
            graph's thread, else one of this object.

    Example:
        ```python
        from deepagents import create_deep_agent

        agent = create_deep_agent(model, backend=CodeInterpreterSandbox())
        ```
    """

    def __init__(
        self, interpreter: CodeInterpreter | None = None, *, session_key: str | None = None
    ) -> None:
        self._interpreter = interpreter
        self._session_key = session_key
        self._own_key = f"deepagents-{token_hex(8)}"
        self._notices: WeakKeyDictionary[Session, list[str]] = WeakKeyDictionary()

    @property
    @override
    def id(self) -> str:
        """The session's identifier in its pool; never the conversation's own name."""
        return self._session().id

    @override
    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a shell command, without standard input.

        Args:
            command: What the shell reads.
            timeout: Seconds, at most `Limits.execution_timeout`, which None and 0 mean too.

        Returns:
            Standard output and error as they came, and the exit code: 124 after a time-out, None
            when the session broke. Nothing is raised.
        """
        return event_loop.wait(self._execute, command, timeout)

    @override
    async def aexecute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """As `execute`, without blocking."""
        return await self._execute(command, timeout)

    @override
    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files by absolute paths; those below `/mnt/data` are put back after a loss."""
        return event_loop.wait(self._upload, files)

    @override
    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """As `upload_files`, without blocking."""
        return await self._upload(files)

    @override
    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files by absolute paths."""
        return event_loop.wait(self._download, paths)

    @override
    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """As `download_files`, without blocking."""
        return await self._download(paths)

    def _session(self) -> Session:
        return self._home().session(self._key())

    def _home(self) -> CodeInterpreter:
        return self._interpreter or execute_code.default_interpreter()

    def _key(self) -> str:
        named = self._session_key or current_key.get()
        thread = None if named else (ensure_config().get("configurable") or {}).get("thread_id")
        return named or (str(thread) if thread else self._own_key)

    async def _execute(self, command: str, timeout: int | None) -> ExecuteResponse:
        response = await self._answer(command, timeout)
        failures = _helping.get()
        if failures is not None and (response.exit_code is None or response.exit_code >= _BROKEN):
            failures.append(response.output.strip())
        return response

    async def _answer(self, command: str, timeout: int | None) -> ExecuteResponse:
        try:
            home, session = self._home(), self._session()
            approved = await _approved(home, command, session)
            if isinstance(approved, ExecuteResponse):
                return approved
            result = await run_command(
                session,
                approved,
                timeout=timedelta(seconds=timeout) if timeout and timeout > 0 else None,
                longest=home.limits.execution_timeout,
            )
        except Exception as error:  # noqa: BLE001 - nothing foreign reaches a framework
            return ExecuteResponse(_failure("a command", error))
        return self._response(session, result)

    def _response(self, session: Session, result: CommandResult) -> ExecuteResponse:
        """The result below what happened to the session; a helper's output is read by programs."""
        notices = self._noticed(session)
        notices += result.notes
        output = result.output
        if notices and _helping.get() is None:
            output = f"[{'; '.join(notices)}]\n{output}"
            notices.clear()
        return ExecuteResponse(output, result.exit_code, truncated=result.dropped_characters > 0)

    def _noticed(self, session: Session) -> list[str]:
        """What happened to the session and was not told yet."""
        return self._notices.setdefault(session, [])

    async def _upload(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        moved = await self._moved([path for path, _ in files], write_files, files)
        return [FileUploadResponse(file.path, file.error) for file in moved]

    async def _download(self, paths: list[str]) -> list[FileDownloadResponse]:
        moved = await self._moved(paths, read_files, paths)
        return [
            FileDownloadResponse(file.path, None if file.error else file.content, file.error)
            for file in moved
        ]

    async def _moved(
        self,
        paths: list[str],
        move: Callable[[Session, Any, Told], Awaitable[list[Moved]]],
        given: Any,
    ) -> list[Moved]:
        try:
            session = self._session()
            return await move(session, given, self._noticed(session).extend)
        except Exception as error:  # noqa: BLE001 - the same
            text = _failure("a transfer", error)
            return [Moved(path, error=text) for path in paths]

    def _explained(self, result: Any, failures: list[str]) -> Any:
        """A helper's failure with what happened to the session; a success says nothing of it."""
        if failures and not result.error:  # `ls` takes the answer of no session for an empty folder
            result = type(result)(error=failures[0])
        with suppress(CodeInterpreterError):
            notices = self._noticed(self._session())
            if notices and getattr(result, "error", None):
                result.error += f" [{'; '.join(notices)}]"
                notices.clear()
        return result


async def _approved(home: CodeInterpreter, command: str, session: Session) -> str | ExecuteResponse:
    """The command that may run, or what there is to say instead."""
    if home.approve is None:
        return command
    try:
        decision = await home.approve(ApprovalRequest(command, session.key))
    except Exception:  # noqa: BLE001 - the host's own code; one that fails has not said yes
        logger.exception("the approver failed")
        return ExecuteResponse("The command was not run: nobody could be asked.")
    if decision.verdict != "allow":
        reason = f": {decision.reason}" if decision.reason else ""
        return ExecuteResponse(f"The command was not run: the user did not approve it{reason}.")
    return command if decision.code is None else decision.code


def _failure(what: str, error: Exception) -> str:
    if isinstance(error, CodeInterpreterError):
        logger.warning("%s failed: %s: %s", what, type(error).__name__, error)
    else:
        logger.error("%s failed unexpectedly", what, exc_info=error)
    return execute_code.failure_text(error)


def _explaining(helper: Callable[..., Any]) -> Callable[..., Any]:
    """A helper of `BaseSandbox` that reads what its own commands put out, and nothing else."""
    if inspect.iscoroutinefunction(helper):

        @functools.wraps(helper)
        async def later(self: CodeInterpreterSandbox, *args: Any, **kwargs: Any) -> Any:
            with _listening() as failures:
                return self._explained(await helper(self, *args, **kwargs), failures)

        return later

    @functools.wraps(helper)
    def now(self: CodeInterpreterSandbox, *args: Any, **kwargs: Any) -> Any:
        with _listening() as failures:
            return self._explained(helper(self, *args, **kwargs), failures)

    return now


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collects what a helper's commands said that did not come to their end."""
    failures: list[str] = []
    token = _helping.set(failures)
    try:
        yield failures
    finally:
        _helping.reset(token)


for _name in _HELPERS:
    for _method in (_name, f"a{_name}"):
        if hasattr(BaseSandbox, _method):
            setattr(CodeInterpreterSandbox, _method, _explaining(getattr(BaseSandbox, _method)))
