"""Output and exit codes of the commands: data goes to stdout, messages to stderr."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import IntEnum
from time import monotonic
from typing import IO, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.status import Status
from rich.text import Text

from cci_plugins.errors import (
    ApprovalDeniedError,
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    ExecutionFailedError,
    ExecutionTimeoutError,
    FileTransferError,
    FoundryError,
    IsolationError,
    PoolError,
    ProvisioningError,
    SessionLostError,
    ToolCallError,
)

from .safe_text import escape_text


class ExitCode(IntEnum):
    """Exit codes of the commands, for use in scripts.

    Attributes:
        meaning: Explanation for the documentation.
    """

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        """Create a member from its number and meaning."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    OK = 0, "the command succeeded"
    CODE_FAILED = (
        1,
        "the code raised an exception, or its process died. Its own `sys.exit` status is passed on",
    )
    USAGE = 2, "the command line is invalid, or a file is missing"
    CONFIGURATION = 3, "a setting is missing or invalid, or this machine offers no isolation"
    AUTHENTICATION = 4, "Azure or the pool refused the sign-in or the key"
    POOL_UNAVAILABLE = 5, "the pool is unreachable or full, or lost the session"
    PROVISIONING = 6, "Azure did not complete the change. Run the command again to continue"
    INTERNAL = 70, "a bug in this command. Please report it"
    TIMED_OUT = 124, "the code ran longer than its time limit"
    INTERRUPTED = 130, "the user pressed Ctrl-C"
    BROKEN_PIPE = 141, "the reader of the output closed it"


class OutputClosedError(Exception):
    """The reader of stdout or stderr closed it.

    This is not an `OSError`, because Typer handles those itself.
    """


# The first match counts. A test checks that every exception of the package has an exit code.
_EXIT_CODES: tuple[tuple[type[CodeInterpreterError], ExitCode], ...] = (
    (ConfigurationError, ExitCode.CONFIGURATION),
    (IsolationError, ExitCode.CONFIGURATION),
    (AuthenticationError, ExitCode.AUTHENTICATION),
    (ExecutionTimeoutError, ExitCode.TIMED_OUT),
    (ExecutionFailedError, ExitCode.CODE_FAILED),
    (ApprovalDeniedError, ExitCode.CODE_FAILED),
    (ToolCallError, ExitCode.CODE_FAILED),
    (ProvisioningError, ExitCode.PROVISIONING),
    (PoolError, ExitCode.POOL_UNAVAILABLE),
    (FoundryError, ExitCode.POOL_UNAVAILABLE),
    (SessionLostError, ExitCode.POOL_UNAVAILABLE),
    (FileTransferError, ExitCode.USAGE),
)

_TRACEBACK_STYLES = (
    ("dim", r"(?m)^-{10,}$"),
    ("cyan", r"(?m)^ *(File .*|Cell In\[\d+\].*)$"),
    ("bold", r"(?m)^-+> .*$"),
    ("bold red", r"(?m)^[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Warning|Iteration)\b"),
)

_debug = False


def set_debug(*, is_on: bool) -> None:
    """Print tracebacks of errors from now on, or no longer."""
    global _debug  # noqa: PLW0603 - one process, one command line at a time
    _debug = is_on


def get_exit_code(error: BaseException) -> ExitCode:
    """Return the exit code for an exception that a command raised."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, OutputClosedError):
        return ExitCode.BROKEN_PIPE
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.INTERNAL)


def report_error(error: BaseException) -> ExitCode:
    """Print an exception and its hint to stderr, and return the exit code."""
    code = get_exit_code(error)
    if code is ExitCode.BROKEN_PIPE:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    elif _debug:
        traceback.print_exception(error)
    elif isinstance(error, CodeInterpreterError):
        print_error(str(error), error.hint)
    elif code is ExitCode.INTERRUPTED:
        print_error("interrupted")
    else:
        print_error(f"unexpected {type(error).__name__}: {error}", "run again: cci --debug ...")
    return code


def set_up_streams() -> None:
    """Prepare the streams and loggers for the command line.

    After this, any text can be written, and the package's log warnings go to stderr.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.getLogger("azure").addHandler(
        logging.NullHandler()
    )  # its failures arrive as exceptions
    logger = logging.getLogger("cci_plugins")
    logger.addHandler(_WarningHandler(logging.WARNING))
    logger.propagate = False


class _WarningHandler(logging.Handler):
    """Log handler that prints each record as a warning on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        print_warning(record.getMessage())


def write_stdout(text: str) -> None:
    """Write data to stdout unchanged, and flush it."""
    _write(sys.stdout, text)


def write_stderr(text: str) -> None:
    """Write the stderr of the executed code to stderr unchanged, and flush it."""
    _write(sys.stderr, text)


def print_message(text: str, *, style: str = "dim") -> None:
    """Print a line for the user to stderr."""
    _print_text(Text(text, style=style))


def print_warning(text: str) -> None:
    """Print a warning to stderr."""
    _print_text(Text.assemble(("warning: ", "bold yellow"), escape_text(text)))


def print_hint(text: str) -> None:
    """Print the next step to stderr."""
    _print_text(Text.assemble(("hint: ", "bold cyan"), escape_text(text)))


def print_error(message: str, hint: str | None = None) -> None:
    """Print an error to stderr: the message, then a blank line and the hint.

    A pool may have chosen their words, so control codes are escaped.
    """
    _print_text(Text.assemble(("error: ", "bold red"), escape_text(message)))
    if hint:
        _print_text(Text())
        print_hint(hint)


@contextmanager
def show_progress(message: str) -> Generator[None]:
    """Show a message with a spinner, if stderr is a terminal, until the block ends."""
    console = create_stderr_console()
    if has_animation(console):
        with console.status(message):
            yield
    else:
        yield


@contextmanager
def show_activity(message: str) -> Generator[Callable[[str], object]]:
    """Show the current step with a spinner, if stdout and stderr are terminals.

    Args:
        message: Text before the name of the step.

    Yields:
        Function to call with the name of each step as it begins.
    """
    console = create_stderr_console()
    if not has_animation(console) or not sys.stdout.isatty():
        yield lambda _: None
        return
    with console.status(message) as status:
        yield lambda step: status.update(f"{message}: {step}")


@contextmanager
def show_silence(message: str) -> Generator[Callable[[str], None]]:
    """Show a message with the time that passed, while the code prints nothing for a while.

    Without a terminal for stderr, nothing is shown.

    Args:
        message: Text before the time.

    Yields:
        Function to call with each chunk of output, before the chunk is printed.
    """
    console = create_stderr_console()
    if not has_animation(console):
        yield lambda _: None
        return
    silence = _Silence(console, message)
    thread = threading.Thread(target=silence.watch, daemon=True)
    thread.start()
    try:
        yield silence.end
    finally:
        silence.close()
        thread.join()


class _Silence:
    """Spinner that stands on the terminal while no output comes."""

    _SECONDS = 3.0

    def __init__(self, console: Console, message: str) -> None:
        self._console = console
        self._message = message
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._status: Status | None = None
        self._started = self._last = monotonic()
        self._is_line_complete = True

    def watch(self) -> None:
        """Show and update the spinner until `close`."""
        while not self._closed.wait(0.5):
            with self._lock:
                now = monotonic()
                if now - self._last < self._SECONDS or not self._is_line_complete:
                    continue
                if self._status is None:
                    self._status = self._console.status("")
                    self._status.start()
                self._status.update(f"{self._message} ({now - self._started:.0f} s)")

    def end(self, text: str) -> None:
        """Remove the spinner, because output follows."""
        with self._lock:
            self._last = monotonic()
            if text:
                # A spinner would erase a line that has begun.
                self._is_line_complete = text.endswith("\n")
            if self._status is not None:
                self._status.stop()
                self._status = None

    def close(self) -> None:
        """Remove the spinner and end `watch`."""
        self._closed.set()
        self.end("")


def print_traceback(text: str) -> None:
    """Print the code's traceback to stderr, in colours on a terminal."""
    console = create_stderr_console()
    if not console.is_terminal or console.no_color:
        write_stderr(f"{text}\n")
        return
    lines = Text(text.rstrip("\n"))
    for style, pattern in _TRACEBACK_STYLES:
        lines.highlight_regex(pattern, style)
    console.print(lines)


def confirm(question: str) -> bool:
    """Ask a yes-or-no question on a terminal. Any answer except yes counts as no."""
    import typer

    return typer.confirm(question, default=False, err=True)


@contextmanager
def show_transfer(message: str, size: int | None) -> Generator[Callable[[int], object] | None]:
    """Show the progress bar of a file transfer, if stderr is a terminal.

    Args:
        message: Text before the bar.
        size: Size of the file in bytes, or None when unknown.

    Yields:
        Function to call with the number of bytes transferred so far, or None when there is
        no bar.
    """
    console = create_stderr_console()
    if not has_animation(console):
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=console, transient=True) as bars:
        bar = bars.add_task(escape(message), total=size)
        yield lambda done: bars.update(bar, completed=done)


def is_stderr_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return sys.stderr.isatty()


def is_interactive() -> bool:
    """Return whether the user can answer questions on a terminal."""
    return sys.stderr.isatty() and sys.stdin.isatty()


def has_animation(console: Console) -> bool:
    """Return whether a console can show spinners and progress bars."""
    return console.is_terminal and not console.is_dumb_terminal


def create_stderr_console() -> Console:
    """Create a console for messages on stderr, after flushing stdout to keep the order."""
    _write(sys.stdout, "")
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def _print_text(text: Text) -> None:
    create_stderr_console().print(text)


def _write(stream: IO[str], text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise OutputClosedError from None
