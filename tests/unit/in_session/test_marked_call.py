"""Calls of our own source: their code, their answers and their progress."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import cci_plugins
from cci_plugins.core.shell import call as shell_call
from cci_plugins.files import in_session_transfer
from cci_plugins.in_session.marked_call import (
    MarkedCall,
    Program,
    ProgressParser,
    build_call,
)
from cci_plugins.in_session.program_support import write_answer
from cci_plugins.pools.azure import agent_client
from cci_plugins.redaction import redact

MARKER = "ab" * 16
PROGRAMS = [shell_call._PROGRAM, in_session_transfer._PROGRAM, agent_client._AGENT]
ECHO = Program("_echo", (str(Path(__file__).with_name("echo_program.py")),))


def parse(output: str) -> Any:
    return MarkedCall("", MARKER).parse_answer(output)


def run_call(
    call: MarkedCall, *, is_awaited: bool = False, **names: Any
) -> tuple[str, dict[str, Any]]:
    """Run a call as a session does. Return its output and the names that it left."""
    namespace: dict[str, Any] = {"get_ipython": lambda: None, **names}
    with contextlib.redirect_stdout(io.StringIO()) as output:
        value = eval(call.code, namespace)
        value = asyncio.run(value) if is_awaited else value
    assert value is None
    namespace.pop("__builtins__")
    return output.getvalue(), {name: namespace[name] for name in namespace if name not in names}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "'\"\\\n\r\t\0",
        "ä\N{SNOWMAN}\N{GRINNING FACE}",
        "\udc80",
        "\u2028\x85",
        "{}",
        [1.5, None],
    ],
    ids=ascii,
)
def test_a_job_arrives_unchanged_and_no_name_is_left(value: object) -> None:
    call = build_call(ECHO, {"value": value})
    output, left = run_call(call)
    answer = call.parse_answer(f"before{output}after")
    assert answer is not None
    assert answer.fields == {"value": value}
    assert answer.text == f"text with {call.marker} in it"
    assert call.remove_answer(f"before{output}after") == "beforeafter"
    assert set(left) == {"get_ipython"}


def test_names_that_user_code_has_replaced_do_no_harm() -> None:
    replaced: dict[str, Any] = dict.fromkeys(("dict", "list", "vars", "type", "json", "main", "ns"))
    output, _ = run_call(build_call(ECHO, {"value": 1}), **replaced)
    assert '{"value": 1}' in output


def test_a_kept_program_is_installed_once() -> None:
    kept = Program("_kept", ECHO.modules, is_kept=True)
    try:
        for count in (1, 2):
            call = build_call(kept, {"value": 0})
            run_call(call)
            assert sys.modules["_kept"].__dict__["calls"] == [0] * count
    finally:
        sys.modules.pop("_kept", None)


@pytest.mark.parametrize("awaits", [False, True])
def test_a_call_without_its_program_runs_only_where_the_program_is(*, awaits: bool) -> None:
    kept = Program("_kept", ECHO.modules, is_kept=True)
    try:
        call = build_call(kept, {"value": 7}, awaits=awaits)
        code = call.short_code.removeprefix("await ")
        for _ in range(2):  # the second is answered alike: what answered has removed itself
            output, left = run_call(MarkedCall(code, call.marker), is_awaited=awaits)
            answer = call.parse_answer(output)
            assert answer is not None
            assert answer.fields == {"absent": True}
            assert set(left) == {"get_ipython"}
            assert "_kept" not in sys.modules

        run_call(build_call(kept, {"value": 1}))
        output, _ = run_call(MarkedCall(code, call.marker))
        answer = call.parse_answer(output)
        assert answer is not None
        assert answer.fields == {"value": 7}
        assert sys.modules["_kept"].__dict__["calls"] == [1, 7]
    finally:
        sys.modules.pop("_kept", None)


def test_only_a_kept_program_can_be_left_out() -> None:
    assert build_call(ECHO, {}).short_code == ""


def test_every_call_has_its_own_marker_and_one_title_line() -> None:
    calls = [build_call(ECHO, {}, title="rm\n-rf \x00" + "x" * 500) for _ in range(2)]
    assert len({call.marker for call in calls}) == 2
    for call in calls:
        title, _, code = call.code.partition("\n")
        assert title == f"# rm -rf  {'x' * 192}"
        assert "\n" not in code


@pytest.mark.parametrize(
    "output",
    [
        "",
        "no answer",
        f"cut {MARKER}",
        f'cut {MARKER}{{"a": 1}}\nAAAA',
        f"{MARKER}no json\n\n{MARKER}",
        f"{MARKER}{{no json\n\n{MARKER}",
        f"{MARKER}[1]\n\n{MARKER}",
        f'{MARKER}{{"a": 1}}{MARKER}',
        f'{MARKER}{{"a": 1}}\n{MARKER}',
        MARKER + '{"a":' * 100_000 + f"\n\n{MARKER}",
        MARKER + '{"a": ' + "9" * 5000 + "}\n\n" + MARKER,
        f"{MARKER}12\n{MARKER}",
    ],
    ids=lambda output: ascii(output[:40]),
)
def test_an_answer_that_is_not_whole_is_not_an_answer(output: str) -> None:
    assert parse(output) is None
    assert MARKER not in MarkedCall("", MARKER).remove_answer(output)


def test_progress_does_not_hide_the_answer() -> None:
    answer = parse(f'{MARKER}12\n{MARKER}34\n{MARKER}{{"size": 34}}\n\n{MARKER}printed later')
    assert answer.fields == {"size": 34}


@pytest.mark.parametrize(
    "text", ["eJxSig=", "?sig=", "'sig':", "x-ms-apikey: ", "Authorization: Bearer "]
)
def test_redaction_on_the_way_does_not_hide_the_marker(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_answer(MARKER, {}, text)
    answer = parse(redact(capsys.readouterr().out))
    assert answer.text == text


def test_an_integer_is_not_a_boolean_a_number_or_a_text() -> None:
    fields = {"a": 1, "b": True, "c": 1.0, "d": "1", "e": None}
    answer = parse(f"{MARKER}{json.dumps(fields)}\n\n{MARKER}")
    assert [answer.get_int(name) for name in "abcdef"] == [1, None, None, None, None, None]


def test_false_progress_is_bounded() -> None:
    reported: list[int] = []
    parser = ProgressParser(MarkedCall("", "m" * 32), reported.append)
    for text in (
        "m" * 32 + "9" * 5000 + "\n",
        "m" * 32 + "\u0663\n",
        "m" * 32 + "-1\n",
        "x" * 1_000_000,
        "\n" + "m" * 32,
        "12",
        "34\n",
    ):
        parser.feed(text)
        assert len(parser._line) < 100
    assert reported == [3, 1234]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_modules_of_one_program_share_a_namespace_without_conflicts(program: Program) -> None:
    package = Path(cci_plugins.__file__).parent
    defined: dict[str, str] = {}
    for module in ("in_session/program_support.py", *program.modules):
        for node in ast.parse((package / module).read_text(encoding="utf-8")).body:
            names = [getattr(node, "name", None)]
            if isinstance(node, ast.Assign):
                names = [
                    one.id
                    for one in ast.walk(node)
                    if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
                ]
            for name in filter(None, names):
                assert defined.setdefault(name, module) == module, name
    assert "main" in defined
