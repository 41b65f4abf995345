"""Bounds of the messages that a kernel sends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cci_plugins.in_session.message_bounds import (
    COUNTS_KEY,
    MAX_CUT_CHARACTERS,
    MAX_FORM_BYTES,
    MessageBounds,
    bound_forms,
)

MIB = 1 << 20


@pytest.mark.quick("text/plain", "letter")
@pytest.mark.parametrize(
    "character",
    ["x", "\x00", "\N{SNOWMAN}", "\ud800", '"'],
    ids=["letter", "control", "snowman", "surrogate", "quote"],
)
@pytest.mark.parametrize("kind", ["text/plain", "text/html", "image/png"])
def test_every_display_fits_into_its_bound(kind: str, character: str) -> None:
    data = {"text/latex": "small", kind: character * (MAX_FORM_BYTES + 1)}
    forms, notes = bound_forms(data)
    packed = json.dumps(forms, ensure_ascii=False).encode("utf-8", "backslashreplace")
    assert len(packed) < MAX_FORM_BYTES + MIB
    assert forms["text/latex"] == "small"
    assert (kind in forms) == (kind == "text/plain")
    (note,) = notes
    assert note.startswith(f"{kind} of 33,554,433 characters was ")


def test_a_display_that_fits_is_unchanged() -> None:
    data = {"text/plain": "x" * MIB, "application/json": {"a": [1]}, "image/png": b"raw"}
    assert bound_forms(data) == (data, [])


@pytest.mark.parametrize("kind", ["error", "execute_reply"])
def test_the_texts_of_an_error_are_cut_and_the_cut_is_counted(kind: str) -> None:
    long = "x" * (60 * MIB)
    content = {"ename": "E", "evalue": long, "traceback": ["begin", long, "end"]}
    bounded = MessageBounds().bound(kind, content, "run")
    assert bounded["ename"] == "E"
    assert "[... 61,865,984 characters not kept ...]" in bounded["evalue"]
    (text,) = bounded["traceback"]
    assert text.startswith("begin")
    assert text.endswith("end")
    assert len(text) < MAX_CUT_CHARACTERS + 100


def test_the_reply_carries_the_counts_of_its_own_run() -> None:
    bounds = MessageBounds()
    bounds.get_counts("run")["stdout"] += 7
    for kind in ("display_data", "execute_result"):
        bounds.bound(kind, {"data": {"text/plain": "x"}}, "run")
    bounds.bound("display_data", {"data": {"text/plain": "x"}}, "other")
    reply = bounds.bound("execute_reply", {"status": "ok"}, "run")
    assert reply[COUNTS_KEY] == {"stdout": 7, "stderr": 0, "displays": 2, "notes": []}


@pytest.mark.parametrize(
    ("content", "buffers"), [({"data": "x" * MAX_FORM_BYTES}, None), ({}, [b"x" * (33 * MIB)])]
)
def test_a_message_of_a_widget_that_is_too_large_is_refused(content: Any, buffers: Any) -> None:
    bounds = MessageBounds()
    assert bounds.refuses("comm_msg", content, buffers, "run")
    assert not bounds.refuses("comm_msg", {"data": 1}, [b"x"], "run")
    assert bounds.get_counts("run")["notes"] == ["a message of type comm_msg was too large to send"]
