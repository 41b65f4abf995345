"""Setup that makes ordinary Python behave in IPython: exits, arguments, imports, help, debugger.

Each remedy is for the whole session, whatever pool it belongs to. `set_up_shell` applies all.
"""

from __future__ import annotations

import builtins
import importlib
import linecache
import os
import pdb  # noqa: T100 - to replace it
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from cci_plugins.in_session.script_comment import find_script, remove_script

MAX_FRAMES = 60  # of a traceback that is formatted, since IPython needs a millisecond for each
_OWN_FILE = "<cci>"  # the name under which our own source is compiled
_NO_STATUS = ("", "None", "False")  # the text of arguments that mean status 0
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def set_up_shell(shell: Any, folder: str) -> None:
    """Apply every remedy to a session, once.

    Args:
        shell: IPython's shell.
        folder: The session's folder.
    """
    if getattr(shell, "cci_is_set_up", False):
        return
    shell.cci_is_set_up = True
    sys.argv[:] = [""]
    sys.dont_write_bytecode = True  # it would be reported as files of the user
    add_own_folder(folder)
    allow_exits(shell)
    bound_tracebacks(shell)
    ScriptNames(shell, folder).install()
    refuse_debugger()
    shell.set_hook("show_in_pager", print_page, 0)
    shell.enable_matplotlib = build_enable_matplotlib(shell.enable_matplotlib)
    pictures = shell.display_formatter.formatters["image/png"]
    pictures.for_type_by_name("matplotlib.figure", "Figure", draw_figure)


def add_own_folder(folder: str) -> None:
    """Make modules in the session's folder importable, before all others as for a script.

    Modules that our own code needs are loaded before that, so that a user's `ssl.py` is not.
    """
    sys.path[:] = [folder, *(entry for entry in sys.path if entry not in {"", folder})]


def get_exit_status(code: object) -> int:
    """Return the exit status that a program ends with after `sys.exit(code)`."""
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1


def allow_exits(shell: Any) -> None:
    """Let `exit`, `quit` and `sys.exit` end the cell, and an exit with status 0 succeed."""

    class SessionExit(type(shell.exiter)):  # type: ignore[misc]
        """`exit` and `quit`, which IPython calls where they stand alone."""

        def __call__(self, code: object = None) -> None:
            raise SystemExit(code)

    def ask_exit() -> None:
        raise SystemExit

    async def run_code(code: Any, result: Any = None, **options: Any) -> bool:
        has_ended = await run(code, result, **options)
        if result is not None and is_successful_exit(result.error_in_exec):
            result.error_in_exec = None
        return bool(has_ended)

    def show_traceback(*arguments: Any, **options: Any) -> None:
        error = sys.exc_info()[1]
        if not arguments and not options.get("exc_tuple") and isinstance(error, SystemExit):
            if not is_successful_exit(error):
                shown = SystemExit(describe_exit(error.code))
                shell._showtraceback(SystemExit, shown, [f"SystemExit: {shown}"])  # noqa: SLF001
            return
        show(*arguments, **options)

    run, show = shell.run_code, shell.showtraceback
    shell.exiter = exiter = SessionExit(shell)
    shell.user_ns.update(exit=exiter, quit=exiter)
    for name in ("exit", "quit"):  # for modules of the user. IPython hides them otherwise
        shell.builtin_trap.auto_builtins.pop(name, None)
        setattr(builtins, name, exiter)
    shell.ask_exit = ask_exit
    shell.run_code, shell.showtraceback = run_code, show_traceback


def describe_exit(code: object) -> str:
    """Return the argument of `sys.exit` as text that is a number only if it is the status."""
    if isinstance(code, int):
        return str(int(code))
    text = str(code)
    is_ambiguous = text in _NO_STATUS or text.strip().lstrip("+-").isdecimal()
    return repr(text) if is_ambiguous else text


def is_successful_exit(error: object) -> bool:
    """Return whether an exception is an exit with status 0."""
    return isinstance(error, SystemExit) and get_exit_status(error.code) == 0


def bound_tracebacks(shell: Any) -> None:
    """Bound the frames that IPython formats. A RecursionError takes many seconds otherwise."""
    formatter = shell.InteractiveTB
    build = formatter.structured_traceback

    def build_bounded(etype: Any, value: Any, trace: Any = None, *rest: Any, **options: Any) -> Any:
        with cut_tracebacks(value, trace) as left_out:
            lines = build(etype, value, trace, *rest, **options)
        if left_out and isinstance(lines, list):
            lines.insert(-1, f"[... {left_out:,} of the frames are left out ...]\n")
        return lines

    formatter.structured_traceback = build_bounded


@contextmanager
def cut_tracebacks(value: Any, trace: TracebackType | None) -> Iterator[int]:
    """Cut long tracebacks of an exception and its causes, and take our own frames out.

    At the end they are whole again.

    Yields:
        The number of frames that are left out.
    """
    links: list[tuple[TracebackType, TracebackType | None]] = []
    left_out, seen = 0, set()
    pending = [trace, value]
    while pending:
        item = pending.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, BaseException):
            pending += [item.__cause__, item.__context__, item.__traceback__]
            continue
        first, *rest = iter_traceback(item)
        nodes = [first, *(node for node in rest if node.tb_frame.f_code.co_filename != _OWN_FILE)]
        if len(nodes) > MAX_FRAMES:
            left_out += len(nodes) - MAX_FRAMES
            nodes[MAX_FRAMES // 2 : -MAX_FRAMES // 2] = []
        links += [(node, node.tb_next) for node in nodes]
        for node, following in zip(nodes, [*nodes[1:], None], strict=True):
            node.tb_next = following
    try:
        yield left_out
    finally:
        for node, following in links:
            node.tb_next = following


def iter_traceback(node: Any) -> Iterator[TracebackType]:
    """Yield the entries of a traceback."""
    while node is not None:
        yield node
        node = node.tb_next


class ScriptNames:
    """Name and arguments of a script, which `cci run` appends to its code as a comment.

    The comment is the last line, so the numbers of all lines stay.
    """

    def __init__(self, shell: Any, folder: str) -> None:
        self._shell = shell
        self._folder = folder
        self._name: str | None = None

    def install(self) -> None:
        """Read the comment before each run, and compile the run's code under the script's name."""
        self._shell.events.register("pre_run_cell", self._prepare_run)
        compiler = self._shell.compile
        cache = compiler.cache

        def cache_code(code: str, *arguments: Any, **options: Any) -> str:
            if self._name is None:
                return str(cache(code, *arguments, **options))
            lines = [f"{line}\n" for line in remove_script(code).splitlines()]
            linecache.cache[self._name] = (len(code), None, lines, self._name)
            return self._name

        compiler.cache = cache_code

    def _prepare_run(self, info: Any) -> None:
        script = find_script(getattr(info, "raw_cell", "") or "")
        if script is None:
            if self._name is not None:
                self._shell.user_ns.pop("__file__", None)
                self._name, sys.argv = None, [""]
            return
        self._name = script[0]
        sys.argv = script
        file_name = os.path.basename(self._name)  # noqa: PTH119 - our modules import little
        self._shell.user_ns["__file__"] = os.path.join(self._folder, file_name)  # noqa: PTH118


NO_DEBUGGER = "the debugger is not available here: nobody can type commands; print the values"


def refuse_debugger() -> None:
    """Make debuggers that ask a person raise an error that explains it, not `BdbQuit`."""

    def refuse(*_: Any, **__: Any) -> None:
        raise EOFError(NO_DEBUGGER)

    pdb.set_trace = sys.breakpointhook = refuse
    if "IPython.core.debugger" in sys.modules:
        sys.modules["IPython.core.debugger"].set_trace = refuse  # type: ignore[attr-defined]
    for base in pdb.Pdb.__mro__:  # such as `%debug`, which asks in the end
        if "do_EOF" in vars(base):
            base.do_EOF = build_do_eof(vars(base)["do_EOF"])  # type: ignore[attr-defined]


def build_do_eof(original: Callable[..., Any]) -> Callable[..., Any]:
    """Build a debugger's answer to the end of its input."""

    def do_eof(self: Any, argument: str) -> Any:
        if not self.use_rawinput:
            return original(self, argument)  # its commands came from a file
        raise EOFError(NO_DEBUGGER)

    return do_eof


def print_page(_: Any, text: Any, *__: Any, **___: Any) -> None:
    """Print what IPython would page, such as the help of `name?`."""
    if isinstance(text, dict):
        text = text.get("text/plain", "")
    sys.stdout.write(_COLOUR.sub("", str(text)).rstrip() + "\n")


def build_enable_matplotlib(original: Callable[..., Any]) -> Callable[..., Any]:
    """Build `%matplotlib`, which has one way to show figures here, whatever it is asked for."""

    def enable_matplotlib(gui: object = None) -> Any:
        del gui
        return original("inline")

    return enable_matplotlib


def draw_figure(figure: Any) -> Any:
    """Return a figure as PNG where the code never imported pyplot, which would register it."""
    tools: Any = importlib.import_module("IPython.core.pylabtools")
    return tools.print_figure(figure, "png", base64=False)
