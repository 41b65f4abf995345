"""Large JSON is encoded in pieces that say the same as `json.dumps`."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cci_plugins.common import json_pieces
from cci_plugins.common.json_pieces import encode_in_pieces, is_large

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    LEAVES | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=20), inner),
    max_leaves=20,
)


@pytest.fixture(scope="module", autouse=True)
def small_pieces() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_pieces, "PIECE_CHARACTERS", 8)
        patch.setattr(json_pieces, "_PIECE_VALUES", 6)
        patch.setattr(json_pieces, "_GROUP", 3)
        yield


@given(VALUES)
def test_the_pieces_of_any_value_are_its_json(value: Any) -> None:
    assert json.loads(b"".join(encode_in_pieces(value))) == value


def test_a_long_text_has_no_long_piece() -> None:
    value = {"a": ['"\\\u00e9\u2603\U0001f600' * 50, "\ud800" * 20], "b": {"c": "x" * 100}}
    pieces = list(encode_in_pieces(value))
    assert json.loads(b"".join(pieces)) == value
    assert max(map(len, pieces)) <= 8 * 6


def test_many_small_values_are_large_without_being_counted_to_the_end() -> None:
    class Endless(list[int]):
        def __iter__(self) -> Any:
            while True:
                yield 1

    assert is_large(Endless())
    assert is_large([[]] * 10)
    assert is_large({str(key): 1 for key in range(10)})
    assert not is_large(["a", {"b": [1]}])


@pytest.mark.parametrize("odd", [math.nan, math.inf, object(), b"x"])
def test_what_is_not_json_is_refused(odd: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        list(encode_in_pieces({"a": ["x" * 100, odd]}))
