"""The order of an execution's output, its short form and its form in a notebook of the host."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest

from cci_plugins import Execution, OutputEvent, Result
from cci_plugins.core.redacted_output import redact_execution
from cci_plugins.core.rendering import render_text
from cci_plugins.mcp_client.executions import dump_execution, load_execution
from cci_plugins.models import ErrorInfo, build_outputs, note_malformed_images

PNG = b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20_000)).decode()
SHOWN = Result({"text/plain": "5"})
ORDER: list[list[Any]] = [["stdout", 2], ["result", 1], ["stderr", 2], ["stdout", 2]]
EXECUTION = Execution(
    stdout="a\nb\n",
    stderr="e\n",
    results=(SHOWN,),
    outputs=build_outputs(ORDER, "a\nb\n", "e\n", (SHOWN,)),
    execution_count=3,
)


def list_outputs(execution: Execution) -> list[str]:
    return [event.text or str(event.result and event.result.text) for event in execution.outputs]


def test_outputs_are_in_the_order_in_which_they_came() -> None:
    assert list_outputs(EXECUTION) == ["a\n", "5", "e\n", "b\n"]


def test_outputs_without_an_order_are_complete() -> None:
    assert list_outputs(Execution("out", "err", (SHOWN,))) == ["out", "err", "5"]


def test_outputs_follow_what_replaces_streams_and_results() -> None:
    assert list_outputs(replace(EXECUTION, stdout="a\nb\nmore")) == [
        "a\n",
        "5",
        "e\n",
        "b\n",
        "more",
    ]
    assert list_outputs(replace(EXECUTION, stdout="other")) == ["other", "e\n", "5"]
    assert list_outputs(replace(EXECUTION, results=())) == ["a\nb\n", "e\n"]


def test_a_secret_is_redacted_in_the_order_too_even_across_a_display() -> None:
    secret = "https://a.example/b?sr=b&sig=" + "A1" * 22
    order: list[list[Any]] = [["stdout", 40], ["result", 1], ["stdout", len(secret) - 40]]
    results = (Result({"text/plain": secret}),)
    outputs = build_outputs(order, secret, "", results)
    clean = redact_execution(Execution(secret, results=results, outputs=outputs))
    assert "A1A1" not in str(clean.outputs) + clean.stdout
    assert "".join(event.text for event in clean.outputs) == clean.stdout


def test_the_order_and_the_count_cross_the_wire_and_are_optional() -> None:
    value = json.loads(json.dumps(dump_execution(EXECUTION)))
    assert load_execution(value, "") == EXECUTION
    del value["order"], value["executionCount"]
    assert load_execution(value, "").outputs == Execution("a\nb\n", "e\n", (SHOWN,)).outputs


def test_an_order_that_a_session_made_up_loses_nothing() -> None:
    value = dump_execution(EXECUTION)
    value["order"] = [["result", 9], ["result", 1], ["stdout", -5], ["odd", 1], ["stderr", 10**9]]
    execution = load_execution(value, "")
    assert list_outputs(execution) == ["5", "e\n", "a\nb\n"]


def test_the_repr_of_an_execution_is_short_and_holds_no_image() -> None:
    results = tuple(Result({"image/png": PNG, "text/plain": "<Figure>"}) for _ in range(30))
    execution = Execution("x" * 9_000, results=results, error=ErrorInfo("E", "y" * 9_000))
    assert len(repr(execution)) < 1_000
    assert PNG[:100] not in repr(execution) + repr(results)
    assert repr(Execution()) == "Execution()"
    assert repr(SHOWN) == "Result({'text/plain': '5'})"
    assert len(repr(OutputEvent("result", result=results[0]))) < 100


def test_an_execution_shows_as_itself_in_a_notebook_and_runs_no_script_there() -> None:
    html = "<script>alert(1)</script>"
    results = (
        Result({"image/png": PNG}),
        Result({"text/html": html, "text/plain": "frame"}),
        Result({"image/svg+xml": f"<svg>{html}</svg>"}),
    )
    execution = Execution(html, results=results, error=ErrorInfo("ValueError", "no", "trace"))
    bundle = execution._repr_mimebundle_(include=None, exclude=None)
    assert bundle["text/plain"] == repr(execution)
    assert f'<img src="data:image/png;base64,{PNG}">' in bundle["text/html"]
    assert '<iframe sandbox=""' in bundle["text/html"]
    assert "trace" in bundle["text/html"]
    assert "<script" not in bundle["text/html"]


@pytest.mark.parametrize("value", ["\xe9", "AAAA", "%%%", 3, None])
def test_a_malformed_image_becomes_a_note(value: object) -> None:
    execution = note_malformed_images(Execution(results=(Result({"image/png": value}),)))
    (note,) = execution.notes
    assert note == "displayed images that are malformed and cannot be shown: 1 (image/png)"
    assert execution.results[0].png in {None, b"\x00\x00\x00"}
    assert "shown to the user" not in render_text(execution, 1_000)


def test_an_infinite_size_of_a_chart_is_not_an_error() -> None:
    series = {"kind": "line", "x": [1], "y": [1], "size": float("inf")}
    result = Result({"application/vnd.cci-plugins.chart+json": {"axes": [{"series": [series]}]}})
    assert result.charts == ()
