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
from .core.shell.files import FileResult, NotesHandler, read_files, write_files
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
_MIN_BROKEN_EXIT_CODE = 124  # and above: a time-out, no shell, a signal
_helper_failures: ContextVar[list[str] | None] = ContextVar("cci_deepagents_helping", default=None)


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
        self._fallback_key = f"deepagents-{token_hex(8)}"
        self._notices: WeakKeyDictionary[Session, list[str]] = WeakKeyDictionary()

    @property
    @override
    def id(self) -> str:
        """The session's identifier in its pool; never the conversation's own name."""
        return self._get_session().id

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
        return event_loop.run_blocking(self._execute, command, timeout)

    @override
    async def aexecute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """As `execute`, without blocking."""
        return await self._execute(command, timeout)

    @override
    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files by absolute paths; those below `/mnt/data` are put back after a loss."""
        return event_loop.run_blocking(self._upload, files)

    @override
    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """As `upload_files`, without blocking."""
        return await self._upload(files)

    @override
    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files by absolute paths."""
        return event_loop.run_blocking(self._download, paths)

    @override
    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """As `download_files`, without blocking."""
        return await self._download(paths)

    def _get_session(self) -> Session:
        return self._get_interpreter().session(self._resolve_key())

    def _get_interpreter(self) -> CodeInterpreter:
        return self._interpreter or execute_code.get_default_interpreter()

    def _resolve_key(self) -> str:
        explicit_key = self._session_key or current_key.get()
        thread = (
            None if explicit_key else (ensure_config().get("configurable") or {}).get("thread_id")
        )
        return explicit_key or (str(thread) if thread else self._fallback_key)

    async def _execute(self, command: str, timeout: int | None) -> ExecuteResponse:
        response = await self._run_approved(command, timeout)
        failures = _helper_failures.get()
        if failures is not None and (
            response.exit_code is None or response.exit_code >= _MIN_BROKEN_EXIT_CODE
        ):
            failures.append(response.output.strip())
        return response

    async def _run_approved(self, command: str, timeout: int | None) -> ExecuteResponse:
        try:
            interpreter, session = self._get_interpreter(), self._get_session()
            approved = await _request_approval(interpreter, command, session)
            if isinstance(approved, ExecuteResponse):
                return approved
            result = await run_command(
                session,
                approved,
                timeout=timedelta(seconds=timeout) if timeout and timeout > 0 else None,
                max_timeout=interpreter.limits.execution_timeout,
            )
        except Exception as error:  # noqa: BLE001 - nothing foreign reaches a framework
            return ExecuteResponse(_log_failure("a command", error))
        return self._build_response(session, result)

    def _build_response(self, session: Session, result: CommandResult) -> ExecuteResponse:
        """The result below what happened to the session; a helper's output is read by programs."""
        notices = self._get_notices(session)
        notices += result.notes
        output = result.output
        if notices and _helper_failures.get() is None:
            output = f"[{'; '.join(notices)}]\n{output}"
            notices.clear()
        return ExecuteResponse(output, result.exit_code, truncated=result.dropped_characters > 0)

    def _get_notices(self, session: Session) -> list[str]:
        """What happened to the session and was not told yet."""
        return self._notices.setdefault(session, [])

    async def _upload(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        results = await self._move_files([path for path, _ in files], write_files, files)
        return [FileUploadResponse(file.path, file.error) for file in results]

    async def _download(self, paths: list[str]) -> list[FileDownloadResponse]:
        results = await self._move_files(paths, read_files, paths)
        return [
            FileDownloadResponse(file.path, None if file.error else file.content, file.error)
            for file in results
        ]

    async def _move_files(
        self,
        paths: list[str],
        move: Callable[[Session, Any, NotesHandler], Awaitable[list[FileResult]]],
        given: Any,
    ) -> list[FileResult]:
        try:
            session = self._get_session()
            return await move(session, given, self._get_notices(session).extend)
        except Exception as error:  # noqa: BLE001 - the same
            text = _log_failure("a transfer", error)
            return [FileResult(path, error=text) for path in paths]

    def _explain_failure(self, result: Any, failures: list[str]) -> Any:
        """A helper's failure with what happened to the session; a success says nothing of it."""
        if failures and not result.error:  # `ls` takes the answer of no session for an empty folder
            result = type(result)(error=failures[0])
        with suppress(CodeInterpreterError):
            notices = self._get_notices(self._get_session())
            if notices and getattr(result, "error", None):
                result.error += f" [{'; '.join(notices)}]"
                notices.clear()
        return result


async def _request_approval(
    interpreter: CodeInterpreter, command: str, session: Session
) -> str | ExecuteResponse:
    """The command that may run, or what there is to say instead."""
    if interpreter.approve is None:
        return command
    try:
        decision = await interpreter.approve(ApprovalRequest(command, session.key))
    except Exception:  # noqa: BLE001 - the host's own code; one that fails has not said yes
        logger.exception("the approver failed")
        return ExecuteResponse("The command was not run: nobody could be asked.")
    if decision.verdict != "allow":
        reason = f": {decision.reason}" if decision.reason else ""
        return ExecuteResponse(f"The command was not run: the user did not approve it{reason}.")
    return command if decision.code is None else decision.code


def _log_failure(what: str, error: Exception) -> str:
    if isinstance(error, CodeInterpreterError):
        logger.warning("%s failed: %s: %s", what, type(error).__name__, error)
    else:
        logger.error("%s failed unexpectedly", what, exc_info=error)
    return execute_code.format_failure(error)


def _wrap_helper(helper: Callable[..., Any]) -> Callable[..., Any]:
    """A helper of `BaseSandbox` that reads what its own commands put out, and nothing else."""
    if inspect.iscoroutinefunction(helper):

        @functools.wraps(helper)
        async def async_wrapper(self: CodeInterpreterSandbox, *args: Any, **kwargs: Any) -> Any:
            with _collect_failures() as failures:
                return self._explain_failure(await helper(self, *args, **kwargs), failures)

        return async_wrapper

    @functools.wraps(helper)
    def wrapper(self: CodeInterpreterSandbox, *args: Any, **kwargs: Any) -> Any:
        with _collect_failures() as failures:
            return self._explain_failure(helper(self, *args, **kwargs), failures)

    return wrapper


@contextmanager
def _collect_failures() -> Iterator[list[str]]:
    """Collects what a helper's commands said that did not come to their end."""
    failures: list[str] = []
    token = _helper_failures.set(failures)
    try:
        yield failures
    finally:
        _helper_failures.reset(token)


for _name in _HELPERS:
    for _method in (_name, f"a{_name}"):
        if hasattr(BaseSandbox, _method):
            setattr(CodeInterpreterSandbox, _method, _wrap_helper(getattr(BaseSandbox, _method)))
