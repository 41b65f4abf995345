"""Adapter for Deep Agents: a sandbox backend for an agent's files and commands."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from copy import copy
from datetime import timedelta
from typing import Any, Self
from weakref import WeakKeyDictionary

from typing_extensions import override

from .common import event_loop
from .common.approval import ApprovalRequest
from .common.durations import MAX_DURATION
from .core.conversation import SessionKey
from .core.interpreter import AnyInterpreter, CodeInterpreter, unwrap_interpreter
from .core.session import Session
from .core.shell.command import CommandResult, remove_terminal_codes, run_command
from .core.shell.files import FileResult, NotesHandler, read_files, write_files
from .errors import CodeInterpreterError, ConfigurationError
from .tools import execute_code
from .tools.execute_code import SessionKeyResolver

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
_MIN_BROKEN_EXIT_CODE = 124  # and above: a timeout, a missing shell, a signal
_helper_failures: ContextVar[list[str] | None] = ContextVar("cci_deepagents_helping", default=None)


class CodeInterpreterSandbox(BaseSandbox):
    """A session as the sandbox of a deep agent.

    The session's shell runs the commands, in its working directory `/mnt/data`. The conversation
    is LangGraph's `thread_id`, so one object serves all threads, and each has its own session.

    Args:
        interpreter: Where to run. None means `CodeInterpreter.from_env()`.
        session_key: The conversation of every call. None means that of `use_session`, else the
            graph's thread, else one of this object.

    Example:
        ```python
        from deepagents import create_deep_agent

        agent = create_deep_agent(model, backend=CodeInterpreterSandbox())
        ```
    """

    def __init__(
        self, interpreter: AnyInterpreter | None = None, *, session_key: SessionKey | None = None
    ) -> None:
        self._interpreter = None if interpreter is None else unwrap_interpreter(interpreter)
        self._session_key = session_key
        self._key_resolver = SessionKeyResolver("deepagents")
        self._notices: WeakKeyDictionary[Session, list[str]] = WeakKeyDictionary()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a sandbox with the same interpreter and sessions."""
        return copy(self)

    @property
    @override
    def id(self) -> str:
        """The session's identifier in its pool. It does not reveal the conversation's key."""
        return self._get_session().id

    @override
    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a shell command without standard input. Nothing is raised.

        Args:
            command: The source text for the shell.
            timeout: Seconds, at most `Limits.execution_timeout`. None and 0 mean this limit.

        Returns:
            Standard output and error in the order they were written, and the exit code. It is 124
            after a timeout, and None if the session failed.
        """
        return event_loop.run_blocking(self._execute, command, timeout)

    @override
    async def aexecute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a shell command as `execute` does, without blocking.

        Args:
            command: The source text for the shell.
            timeout: Seconds, as for `execute`.
        """
        return await self._execute(command, timeout)

    @override
    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files to absolute paths. Those in `/mnt/data` are restored after a loss.

        Args:
            files: Pairs of a path and its content.
        """
        return event_loop.run_blocking(self._upload, files)

    @override
    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files as `upload_files` does, without blocking.

        Args:
            files: Pairs of a path and its content.
        """
        return await self._upload(files)

    @override
    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files at absolute paths.

        Args:
            paths: The paths.
        """
        return event_loop.run_blocking(self._download, paths)

    @override
    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files as `download_files` does, without blocking.

        Args:
            paths: The paths.
        """
        return await self._download(paths)

    def _get_session(self) -> Session:
        return self._get_interpreter().session(self._resolve_key())

    def _get_interpreter(self) -> CodeInterpreter:
        return execute_code.get_interpreter(self._interpreter)

    def _resolve_key(self) -> str:
        thread_id = (ensure_config().get("configurable") or {}).get("thread_id")
        return self._key_resolver.resolve(thread_id, explicit_key=self._session_key)

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
                timeout=_read_timeout(timeout),
                max_timeout=interpreter.limits.execution_timeout,
            )
        except Exception as error:  # noqa: BLE001 - nothing foreign reaches a framework
            return ExecuteResponse(execute_code.log_failure("a command", error))
        return self._build_response(session, result)

    def _build_response(self, session: Session, result: CommandResult) -> ExecuteResponse:
        """Build the response with the notices, except for a helper, which parses the output."""
        notices = self._get_notices(session)
        notices += result.notes
        is_helper = _helper_failures.get() is not None  # it parses what it printed itself
        output = result.output if is_helper else remove_terminal_codes(result.output)
        if notices and not is_helper:
            output = f"[{'; '.join(notices)}]\n{output}"
            notices.clear()
        return ExecuteResponse(output, result.exit_code, truncated=result.dropped_characters > 0)

    def _get_notices(self, session: Session) -> list[str]:
        """Return the notices about a session that no response has contained yet."""
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
            text = execute_code.log_failure("a transfer", error)
            return [FileResult(path, error=text) for path in paths]

    def _explain_failure(self, result: Any, failures: list[str]) -> Any:
        """Add the session's notices to a helper's failure. A success has no place for them."""
        if failures and not result.error:  # `ls` reads an empty answer as an empty folder
            result = type(result)(error=failures[0])
        with suppress(CodeInterpreterError):
            notices = self._get_notices(self._get_session())
            if notices and getattr(result, "error", None):
                result.error += f" [{'; '.join(notices)}]"
                notices.clear()
        return result


def _read_timeout(seconds: int | None) -> timedelta | None:
    if not seconds or seconds < 0:
        return None
    return timedelta(seconds=min(seconds, MAX_DURATION.total_seconds()))


async def _request_approval(
    interpreter: CodeInterpreter, command: str, session: Session
) -> str | ExecuteResponse:
    """Return the command that may run, or the response to a denial."""
    if interpreter.approve is None:
        return command
    request = ApprovalRequest(command, session.key)
    decision = await execute_code.ask_approver(interpreter.approve, request)
    if decision.verdict != "allow":
        reason = f": {decision.reason}" if decision.reason else ""
        return ExecuteResponse(f"The command was not run: the user did not approve it{reason}.")
    return command if decision.code is None else decision.code


def _wrap_helper(helper: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a helper of `BaseSandbox`, which parses the output of its own commands."""
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
    """Collect the output of a helper's commands that failed to run."""
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
