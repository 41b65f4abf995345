"""Calls of our own source in a session, and the parsing of their output.

A *program* is a list of modules that is sent as source and defines `main(shell, marker, job)`.
Three exist: the session agent, the file transfer and the shell. A caller builds a call, sends its
code by the transport that it has, and parses the output. This module does no I/O itself.

A call is one expression. It binds no name and has no value, so the user's variables, `Out` and `_`
stay as they are. Its job travels as JSON. It uses only three names of the session (`exec`,
`get_ipython`, `__import__`), because user code may have replaced names such as `dict`.

The program answers through `program_support`, in this form, without the spaces:

    MARKER 1234 newline                                    progress, any number of times
    MARKER {fields as JSON} newline text newline MARKER    the answer, once

A program that is kept need not be sent again. `MarkedCall.short_code` leaves it out, and a session
without the program answers `absent`. Nothing ran then.

Whatever else the output contains was printed by other code. The newline before the last marker
keeps redaction on the way from hiding it, for a text that ends in `sig=` as base64 can.

Invariants:

* The marker is 128 random bits, made for one call and never reused. Earlier code cannot know it,
  so no output of user code passes for an answer by accident or by guessing.
* Code that runs during the call can inspect the interpreter and forge an answer of its own
  session. So everything that comes back is untrusted: what does not parse counts as no answer, and
  callers check each field that they use.
* An answer counts only as a whole. A pool may cut output anywhere.
"""

from __future__ import annotations

import ast
import base64
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from secrets import token_hex
from typing import Any

from cci_plugins.in_session.source import build_session_source

MAX_DIGITS = 18  # of a number of bytes
_MAX_TITLE = 200  # characters
_MARKER = re.compile(r"ns\['main'\]\(get_ipython\(\),'([0-9a-f]{32})',")
# What stands for a kept program that is not sent. It removes itself, so that the program can come.
_ABSENT_SOURCE = """
import sys
{kind} main(shell, marker, job):
    del sys.modules[__name__]
    sys.stdout.write(marker + '{{"absent": true}}\\n\\n' + marker)
    sys.stdout.flush()
"""


@dataclass(frozen=True, slots=True)
class Program:
    """Source that runs in sessions.

    Attributes:
        name: The namespace's `__name__`.
        modules: Files below the package's folder. Together they define
            `main(shell, marker, job)`.
        is_kept: Whether the namespace stays in `sys.modules` for later calls.
    """

    name: str
    modules: tuple[str, ...]
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An untrusted answer of a call.

    Attributes:
        fields: The header.
        text: What follows it.
    """

    fields: dict[str, Any]
    text: str

    def get_int(self, name: str) -> int | None:
        """Return a field's integer, or None if it has another type or is missing."""
        value = self.fields.get(name)
        return value if type(value) is int else None


@dataclass(frozen=True, slots=True)
class MarkedCall:
    """One call: the code to send, and the marker of its answer.

    Attributes:
        code: The call with its program.
        marker: The marker of its answer.
        short_code: The call without its program. Empty for a program that is not kept.
    """

    code: str
    marker: str
    short_code: str = ""

    def parse_answer(self, stdout: str) -> Answer | None:
        """Return the answer in the output, or None if it is missing, cut or malformed."""
        content, end, _ = self._find_answer(stdout)
        header, newline, text = content.partition("\n")
        try:
            fields = json.loads(header) if end and newline else None
        except (ValueError, RecursionError):
            return None
        return Answer(fields, text) if isinstance(fields, dict) else None

    def remove_answer(self, stdout: str) -> str:
        """Return what other code printed: the output without a whole, cut or malformed answer."""
        _, end, after = self._find_answer(stdout)
        return stdout.partition(self.marker)[0] + (after if end else "")

    def _find_answer(self, stdout: str) -> tuple[str, str, str]:
        _, start, rest = stdout.partition(f"{self.marker}{{")
        content, end, after = rest.rpartition(f"\n{self.marker}")
        return f"{start[-1:]}{content}", end, after


class ProgressParser:
    """Finds the progress of a call in the chunks of its output.

    Args:
        call: The call.
        on_progress: Called with each number.
    """

    def __init__(self, call: MarkedCall, on_progress: Callable[[int], object]) -> None:
        self._marker, self._on_progress, self._line = call.marker, on_progress, ""

    def feed(self, text: str) -> None:
        """Parse the next chunk of standard output."""
        *lines, line = (self._line + text).split("\n")
        self._line = line[: len(self._marker) + MAX_DIGITS + 1]
        for line in lines:
            number = line.removeprefix(self._marker)
            if number != line and number.isdecimal() and len(number) <= MAX_DIGITS:
                self._on_progress(int(number))


def build_call(
    program: Program, job: dict[str, Any], *, title: str = "", awaits: bool = False
) -> MarkedCall:
    """Build one call of a program.

    Args:
        program: What runs.
        job: What it should do, as JSON values.
        title: A comment line for people who read the session's history.
        awaits: Whether `main` returns an awaitable for this job.
    """
    marker = token_hex(16)
    data = json.dumps(job, ensure_ascii=False)  # `repr` escapes what source cannot hold
    line = "".join(char if char.isprintable() else " " for char in title[:_MAX_TITLE])

    def write_code(source: str) -> str:
        before, after = _frame_job(program, marker, source)
        call = f"{before}{data!r}{after}"
        return (f"# {line}\n" if line else "") + ("await " if awaits else "") + call

    code, *short_codes = map(write_code, _list_sources(program, awaits=awaits))
    return MarkedCall(code, marker, "".join(short_codes))


def parse_call(code: str, program: Program) -> dict[str, Any] | None:
    """Return the job of code that is a call of a program of this version, and nothing else.

    Args:
        code: Code from anybody.
        program: The program.
    """
    call = code.removeprefix("await ")
    match = _MARKER.search(call)
    if match is None:
        return None
    for source in _list_sources(program, awaits=call != code):
        before, after = _frame_job(program, match[1], source)
        if call.startswith(before) and call.endswith(after):
            return _parse_job(call[len(before) : len(call) - len(after)])
    return None


def _parse_job(literal: str) -> dict[str, Any] | None:
    """Return the job that stands in a call as a literal, or None if it is anything else."""
    try:
        value = ast.literal_eval(literal)
        job = json.loads(value) if isinstance(value, str) and repr(value) == literal else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return job if isinstance(job, dict) else None


def _list_sources(program: Program, *, awaits: bool) -> list[str]:
    """Return the source of a program, and what stands for it if it is kept and not sent."""
    absent = _ABSENT_SOURCE.format(kind="async def" if awaits else "def")
    return [_pack_source(program.modules), *([repr(absent)] if program.is_kept else [])]


def _frame_job(program: Program, marker: str, source: str) -> tuple[str, str]:
    """Return the code before and after the job of a call."""
    namespace = (
        f"__import__('sys').modules.setdefault({program.name!r},"
        f"__import__('types').ModuleType({program.name!r})).__dict__"
        if program.is_kept
        else f"{{'__name__':{program.name!r}}}"
    )
    before = (
        f"(lambda ns:['main' in ns or exec({source},ns),"
        f"ns['main'](get_ipython(),{marker!r},__import__('json').loads("
    )
    return before, f"))][1])({namespace})"


@cache
def _pack_source(modules: tuple[str, ...]) -> str:
    source = build_session_source("in_session/program_support.py", *modules)
    packed = base64.b64encode(zlib.compress(source.encode(), 9)).decode()
    return f"__import__('zlib').decompress(__import__('base64').b64decode('{packed}'))"
