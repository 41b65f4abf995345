"""Exceptions that this package raises on purpose.

* CodeInterpreterError
    * ConfigurationError        a setting is missing, invalid or contradicts another
                                (also a ValueError)
    * AuthenticationError       the pool or Azure rejected the key or token
    * IsolationError            this machine cannot isolate untrusted code
    * ApprovalDeniedError       the application's approver denied the run
    * ProvisioningError         Azure did not create, change or delete a resource
    * FoundryError              an agent of Microsoft Foundry failed or did not answer
    * PoolError                 the session pool failed
        * PoolUnavailableError  nothing was started, so it is safe to try again
            * PoolExhaustedError    no session is free, so try again later
        * ProtocolError         the pool returned an answer that is not understood
    * SessionLostError          the session ended, with its variables and files
    * ExecutionTimeoutError     the code ran past its limit (also a TimeoutError)
    * ExecutionFailedError      only `Execution.raise_for_error()` raises it
    * ToolCallError             a host tool refuses a call of the code, with a reason for the code
    * FileTransferError         a file could not be moved
        * UnsafeNameError       the name would leave the session's folder (also a ValueError)
        * FileTooLargeError     the file is larger than a limit
        * SessionFileNotFoundError  the session has no such file (also a FileNotFoundError)
        * TargetExistsError     a download would replace a file (also a FileExistsError)
        * CheckpointError       a checkpoint is missing, expired or damaged

A traceback of the *code that was run* is not an exception. It is `Execution.error`.
"""

from __future__ import annotations

from typing import Literal


class CodeInterpreterError(Exception):
    """Base class of all exceptions of this package.

    Catch it to handle every failure in one place. Show the message and the hint to the user.

    Attributes:
        hint: The next step to try, in one line, or None.
        retryable: Whether the same call may be repeated, because nothing was started.

    Example:
        ```python
        from cci_plugins.errors import CodeInterpreterError, ConfigurationError

        try:
            raise ConfigurationError("CCI_POOL: 'cloud' is invalid", hint="set it to local")
        except CodeInterpreterError as error:
            print(error, "-", error.hint)
        ```
    """

    def __init__(self, message: str, *, hint: str | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.retryable = retryable
        if hint is not None:
            self.add_note(f"hint: {hint}")  # tracebacks print it below the message


class ConfigurationError(CodeInterpreterError, ValueError):
    """A setting that is missing, invalid or contradicts another.

    Raised before anything is started. Correct the setting that the message names.
    """


class AuthenticationError(CodeInterpreterError):
    """A key or token that the pool or Azure rejected (HTTP 401 or 403).

    Raised when a request is refused, or when signing in to Azure fails. Sign in again, correct
    the key, or grant the missing role.
    """


class IsolationError(CodeInterpreterError):
    """A machine that cannot isolate untrusted code.

    Raised by the embedded pool when no isolation backend passes its self-check. Install
    bubblewrap, or choose a weaker backend by its name.
    """


class ApprovalDeniedError(CodeInterpreterError):
    """A run that the application's approver denied.

    The tools return a denial to the model as text, so this package never raises it. Raise it in
    your own code where a denial must stop the program.
    """


class ProvisioningError(CodeInterpreterError):
    """A resource that Azure did not create, change or delete.

    Raised while provisioning. What was created before stays, so run the same command again
    after you corrected the cause.

    Attributes:
        code: Azure's own error code, or empty.
        step: The step that failed, or empty.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, code: str = "", step: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.step = step


class FoundryError(CodeInterpreterError):
    """An agent of Microsoft Foundry that failed or did not answer.

    Raised by `cci_plugins.foundry`. The message holds the reason that Foundry gave.

    Attributes:
        code: Foundry's own error code, or empty.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, code: str = "", retryable: bool = False
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.code = code


class PoolError(CodeInterpreterError):
    """A failure of the session pool.

    Raised when the pool could not do what it was asked. If `retryable` is false, the code may
    have run. Check its effects before you run it again.
    """


class PoolUnavailableError(PoolError):
    """A pool that started nothing, so that the same call is safe to repeat.

    Raised when the pool could not be reached or could not begin the run. It is not `retryable` if
    something on the way refused a run in a session that exists, since that proves nothing.
    """

    def __init__(self, message: str, *, hint: str | None = None, retryable: bool = True) -> None:
        super().__init__(message, hint=hint, retryable=retryable)


class PoolExhaustedError(PoolUnavailableError):
    """A pool without a free session, which started nothing.

    Raised when all sessions are in use. Delete sessions that are done, or try again later.

    Attributes:
        retry_after: Seconds that the pool asked to wait, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after: float | None = None,
        retryable: bool = True,
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.retry_after = retry_after


class ProtocolError(PoolError):
    """An answer of the pool that this package does not understand.

    Raised when an answer is invalid or incomplete. Check that the endpoint is a session pool
    and that its version is supported.
    """


class SessionLostError(CodeInterpreterError):
    """A session that ended, with its variables and files.

    Raised when the kernel died under the code, or when the pool replaced the session. Run the
    earlier steps again.
    """


class ExecutionTimeoutError(CodeInterpreterError, TimeoutError):
    """A run that took longer than its limit.

    Raised when the code was stopped, or when no answer came in time. Give the run a longer
    timeout, or less work.
    """


class ExecutionFailedError(CodeInterpreterError):
    """Code that raised an exception, as `Execution.raise_for_error` reports it.

    Raised by that method only. The traceback is in `Execution.error`.
    """


ToolErrorKind = Literal["failed", "invalid", "denied", "limit", "timeout"]
"""Why a call of a host tool did not succeed, and which exception the code gets.

* `failed`: the tool raised an exception. `ToolError`
* `invalid`: no such tool, or its arguments are wrong. `ToolArgumentError`
* `denied`: a person or a policy did not allow it. `ToolDeniedError`
* `limit`: a bound of `Limits` was reached. `ToolLimitError`
* `timeout`: the tool took too long. `ToolTimeoutError`
"""


class ToolCallError(CodeInterpreterError):
    """A call of a host tool that was refused or has failed.

    Raise it in a host tool to choose what the code in the session gets. Any other exception of
    a tool arrives as `ToolError`, with its class name and text.

    Attributes:
        kind: The kind of failure, which selects the exception in the session.

    Example:
        ```python
        from cci_plugins.errors import ToolCallError

        def refund(order: int) -> str:
            raise ToolCallError("refunds are closed at night", kind="denied")
        ```
    """

    def __init__(
        self, message: str, *, kind: ToolErrorKind = "failed", hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind: ToolErrorKind = kind


class FileTransferError(CodeInterpreterError):
    """A file that could not be moved into or out of a session.

    Raised when a transfer fails. The target stays as it was, and the message holds the reason.
    """


class UnsafeNameError(FileTransferError, ValueError):
    """A file name that would leave the session's folder.

    Raised before anything is moved. Use a relative name without `..`.
    """


class FileTooLargeError(FileTransferError):
    """A file that is larger than a limit.

    Raised when no route takes the file. Configure storage, or raise the limit that the hint
    names.

    Attributes:
        size: Size of the file in bytes, as far as known.
        limit: Largest size in bytes that is allowed.
    """

    def __init__(self, message: str, *, size: int, limit: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.size = size
        self.limit = limit


class SessionFileNotFoundError(FileTransferError, FileNotFoundError):
    """A file that the session does not have.

    Raised by downloads and deletions. List the files with `session.files.list()`.
    """


class TargetExistsError(FileTransferError, FileExistsError):
    """A download target that exists while `overwrite` is false.

    Raised before the file is replaced. Pass `overwrite=True`, or choose another target.
    """


class CheckpointError(FileTransferError):
    """A checkpoint that is missing, expired or damaged.

    Raised before a session is changed. Restore another checkpoint.
    """
