"""Redaction takes time that grows with the text, not faster, however the text is built."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples

from cci_plugins.redaction import Redactor, forget, know, redact
from cci_plugins.redaction.registry import SecretRegistry
from cci_plugins.redaction.stream import SLICE_CHARACTERS, after_slice

FRAGMENTS = (
    "sig= ", "sig=", "sig=a ", "&sig=", "sig: ", "%73ig=", "AccountKey=", "Bearer ", "eyJ", "eyJ.",
    "eyJabcdefghij.", "x-ms-apikey: ", "Authorization: ", "%25", "\\", "&#", "abcdefgh", "A" * 75,
    "\n", " ", "correct-horse", "correct-horse-battery ",
)  # fmt: skip


def count_calls(work: Callable[[], Any]) -> int:
    """Count the calls of functions, of Python's and of the regular expressions."""
    calls = 0

    def count(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


@pytest.fixture(autouse=True)
def _know_a_secret() -> Any:
    know("correct-horse-battery")
    yield
    forget("correct-horse-battery")


@examples(200)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=4).map("".join))
def test_twice_the_text_takes_at_most_about_twice_the_steps(unit: str) -> None:
    small = unit * (40_000 // len(unit))
    once = count_calls(lambda: redact(small))
    twice = count_calls(lambda: redact(small * 2))
    assert twice <= 2.5 * once + 200


@examples(200)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=3).map("".join))
def test_the_same_holds_for_text_in_chunks(unit: str) -> None:
    def feed(text: str) -> None:
        redactor = Redactor()
        for start in range(0, len(text), 100):
            redactor.feed(text[start : start + 100])
        redactor.finish()

    small = unit * (5_000 // len(unit))
    assert count_calls(lambda: feed(small * 2)) <= 2.5 * count_calls(lambda: feed(small)) + 500


def test_an_announcement_without_a_value_costs_no_step() -> None:
    assert count_calls(lambda: redact("sig= " * 6_000)) < 100


def test_a_large_text_is_searched_in_slices_with_the_same_result() -> None:
    text = "https://x/?sig=abcdefgh&a=1 correct-horse-battery " * 4_000
    pauses: list[int] = []
    token = after_slice.set(lambda: pauses.append(1))
    try:
        assert redact(text) == "https://x/?sig=[redacted]&a=1 [redacted] " * 4_000
    finally:
        after_slice.reset(token)
    assert len(pauses) == -(-len(text) // SLICE_CHARACTERS)


def test_a_text_like_the_start_of_many_secrets_costs_no_step_for_each_of_them() -> None:
    def build(count: int) -> SecretRegistry:
        registry = SecretRegistry()
        for number in range(count):
            registry.register(f"same-start-{number:04}-{'q' * 20}")
        registry.redact(text)  # the first search prepares the others
        return registry

    text = "same-start-00" * 1_000
    few, many = build(40), build(400)
    assert count_calls(lambda: many.redact(text)) <= count_calls(lambda: few.redact(text)) + 100
    secret = f"same-start-0123-{'q' * 20}"
    assert many.redact(f"a {secret} {secret}!")[0] == "a [redacted] [redacted]!"
    many.unregister(secret)
    assert many.redact(secret)[0] == secret
    assert many.redact(f"same-start-0124-{'q' * 20}")[0] == "[redacted]"
