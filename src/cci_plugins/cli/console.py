"""The two streams and the exit codes: data on stdout, words on stderr."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import IntEnum
from typing import IO, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
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
)


class ExitCode(IntEnum):
    """How a command ended, for scripts.

    Attributes:
        meaning: What it says, in words.
    """

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        """Make a member of its number and its meaning."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    OK = 0, "everything ran"
    CODE_FAILED = 1, "the code raised, or its process died; its own `sys.exit` status is passed on"
    USAGE = 2, "the command line asks for something that cannot be done; a file is missing"
    CONFIGURATION = 3, "a setting is missing or wrong, or this machine offers no isolation"
    AUTHENTICATION = 4, "Azure or the pool refused the sign-in or the key"
    POOL_UNAVAILABLE = 5, "the pool cannot be reached, is full, or lost the session"
    PROVISIONING = 6, "Azure did not make, change or remove what was asked; run it again to go on"
    INTERNAL = 70, "a fault of this command; please report it"
    TIMED_OUT = 124, "the code ran past its limit"
    INTERRUPTED = 130, "Ctrl-C"
    BROKEN_PIPE = 141, "the reader of the output went away"


class OutputClosedError(Exception):
    """Nobody reads our output any more; not an OSError, which Typer would take for itself."""


# The first that fits counts; a test proves that every exception of the package has one.
_EXIT_CODES: tuple[tuple[type[CodeInterpreterError], ExitCode], ...] = (
    (ConfigurationError, ExitCode.CONFIGURATION),
    (IsolationError, ExitCode.CONFIGURATION),
    (AuthenticationError, ExitCode.AUTHENTICATION),
    (ExecutionTimeoutError, ExitCode.TIMED_OUT),
    (ExecutionFailedError, ExitCode.CODE_FAILED),
    (ApprovalDeniedError, ExitCode.CODE_FAILED),
    (ProvisioningError, ExitCode.PROVISIONING),
    (PoolError, ExitCode.POOL_UNAVAILABLE),
    (FoundryError, ExitCode.POOL_UNAVAILABLE),
    (SessionLostError, ExitCode.POOL_UNAVAILABLE),
    (FileTransferError, ExitCode.USAGE),
)

_debug = False


def set_debug() -> None:
    """Show tracebacks from now on."""
    global _debug  # noqa: PLW0603 - one process, one command line
    _debug = True


def get_exit_code(error: BaseException) -> ExitCode:
    """The exit code of what a command raised."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, OutputClosedError):
        return ExitCode.BROKEN_PIPE
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.INTERNAL)


def report_error(error: BaseException) -> ExitCode:
    """Say on stderr what went wrong and what to do next; return the exit code."""
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
    """Set the streams up: any text can be written, and warnings of the package are words."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.getLogger("azure").addHandler(logging.NullHandler())  # its failures reach us anyhow
    logger = logging.getLogger("cci_plugins")
    logger.addHandler(_WarningHandler(logging.WARNING))
    logger.propagate = False


class _WarningHandler(logging.Handler):
    """Log records as words on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        print_warning(record.getMessage())


def write_stdout(text: str) -> None:
    """Write data to stdout at once, exactly as it is."""
    _write(sys.stdout, text)


def write_stderr(text: str) -> None:
    """Write the code's own stderr to ours, exactly as it is."""
    _write(sys.stderr, text)


def print_message(text: str, *, style: str = "dim") -> None:
    """Write a line of words to stderr."""
    _print_text(Text(text, style=style))


def print_warning(text: str) -> None:
    """Write a warning to stderr."""
    _print_text(Text.assemble(("warning: ", "bold yellow"), text))


def print_hint(text: str) -> None:
    """Write what to do next to stderr."""
    _print_text(Text.assemble(("hint: ", "bold cyan"), text))


def print_error(what: str, hint_text: str | None = None) -> None:
    """Write an error to stderr: what, a blank line, one command."""
    _print_text(Text.assemble(("error: ", "bold red"), what))
    if hint_text:
        _print_text(Text())
        print_hint(hint_text)


@contextmanager
def show_progress(what: str) -> Generator[None]:
    """Show on a terminal that something takes a moment; nothing elsewhere."""
    console = _create_console()
    if console.is_terminal and not console.is_dumb_terminal:
        with console.status(what):
            yield
    else:
        yield


@contextmanager
def show_activity(what: str) -> Generator[Callable[[str], object]]:
    """Show on a terminal what is being done just now; nothing elsewhere.

    Args:
        what: What it is a part of.

    Yields:
        What to tell each thing that begins.
    """
    console = _create_console()
    if not console.is_terminal or console.is_dumb_terminal or sys.stdout.isatty() is False:
        yield lambda _: None
        return
    with console.status(what) as status:
        yield lambda part: status.update(f"{what}: {part}")


def stderr_console() -> Console:
    """Where words go, for what shows more than lines."""
    _write(sys.stdout, "")
    return _create_console()


def ask(question: str) -> bool:
    """Ask for a yes on a terminal; nothing but a yes is one."""
    import typer

    return typer.confirm(question, default=False, err=True)


@contextmanager
def show_transfer(what: str, size: int | None) -> Generator[Callable[[int], object] | None]:
    """Show on a terminal how far a file has come; nothing elsewhere.

    Args:
        what: Words in front of the bar.
        size: Bytes, where they are known.

    Yields:
        What to tell the bytes moved so far, or None.
    """
    console = _create_console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=console, transient=True) as bars:
        bar = bars.add_task(escape(what), total=size)
        yield lambda done: bars.update(bar, completed=done)


def is_stderr_terminal() -> bool:
    """Whether a person reads the words."""
    return sys.stderr.isatty()


def is_interactive() -> bool:
    """Whether a person is there to be asked."""
    return sys.stderr.isatty() and sys.stdin.isatty()


def _create_console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def _print_text(text: Text) -> None:
    _write(sys.stdout, "")
    _create_console().print(text)


def _write(stream: IO[str], text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise OutputClosedError from None
