"""Every exception this package raises on purpose.

* CodeInterpreterError
    * ConfigurationError        a setting is missing or contradicts another (also a ValueError)
    * AuthenticationError       the pool said 401 or 403
    * IsolationError            this machine offers no fence for untrusted code
    * ApprovalDeniedError       the host said no to a run
    * ProvisioningError         Azure did not make, change or remove what was asked
    * FoundryError              an agent of Microsoft Foundry failed, or did not answer
    * PoolError
        * PoolUnavailableError  nothing was started; safe to try again
        * PoolExhaustedError    no session is free; safe to try again later
        * ProtocolError         the pool answered something we do not understand
    * SessionLostError          the session died; its variables and files are gone
    * ExecutionTimeoutError     the code ran past its limit (also a TimeoutError)
    * ExecutionFailedError      raised only by Execution.raise_for_error()
    * FileTransferError
        * UnsafeNameError       a name that would leave the session's folder
        * FileTooLargeError
        * SessionFileNotFoundError
        * TargetExistsError     a download would write over a file

A traceback of the *code that was run* is not an exception: it is `Execution.error`.
"""

from __future__ import annotations


class CodeInterpreterError(Exception):
    """Base of them all.

    Attributes:
        hint: The next thing to try, in one line, or None.
        retryable: Whether the same call may be made again: nothing was started.
    """

    def __init__(self, message: str, *, hint: str | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.retryable = retryable
        if hint is not None:
            self.add_note(f"hint: {hint}")  # tracebacks print it below the message


class ConfigurationError(CodeInterpreterError, ValueError):
    """A setting is missing or contradicts another."""


class AuthenticationError(CodeInterpreterError):
    """The pool refused the key or the token (HTTP 401 or 403)."""


class IsolationError(CodeInterpreterError):
    """This machine offers no fence that holds, and none was waived by name."""


class ApprovalDeniedError(CodeInterpreterError):
    """The host's approval hook said no; the code did not run."""


class ProvisioningError(CodeInterpreterError):
    """Azure did not make, change or remove what was asked; what it made so far stays.

    Attributes:
        code: Azure's own code for it, or empty.
        step: What was being done, or empty.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, code: str = "", step: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.step = step


class FoundryError(CodeInterpreterError):
    """An agent of Microsoft Foundry failed, or did not answer.

    Attributes:
        code: Foundry's own code for it, or empty.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, code: str = "", retryable: bool = False
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.code = code


class PoolError(CodeInterpreterError):
    """The session pool could not do what was asked."""


class PoolUnavailableError(PoolError):
    """Nothing was started, so the call may be made again."""

    def __init__(self, message: str, *, hint: str | None = None, retryable: bool = True) -> None:
        super().__init__(message, hint=hint, retryable=retryable)


class PoolExhaustedError(PoolUnavailableError):
    """No session is free; nothing was started.

    Attributes:
        retry_after: Seconds the pool asked to wait, or None.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ProtocolError(PoolError):
    """The pool answered something we do not understand."""


class SessionLostError(CodeInterpreterError):
    """The session died: its variables and files are gone."""


class ExecutionTimeoutError(CodeInterpreterError, TimeoutError):
    """The code ran past its limit, or no answer came in time."""


class ExecutionFailedError(CodeInterpreterError):
    """The code that was run raised; only `Execution.raise_for_error` raises this."""


class FileTransferError(CodeInterpreterError):
    """A file could not be moved into or out of a session."""


class UnsafeNameError(FileTransferError, ValueError):
    """A name that would leave the session's folder."""


class FileTooLargeError(FileTransferError):
    """A file is larger than a limit.

    Attributes:
        size: Bytes the file has, as far as known.
        limit: Bytes allowed.
    """

    def __init__(self, message: str, *, size: int, limit: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.size = size
        self.limit = limit


class SessionFileNotFoundError(FileTransferError, FileNotFoundError):
    """The session has no file of that name."""


class TargetExistsError(FileTransferError, FileExistsError):
    """A download would write over something that nobody said may be replaced."""
