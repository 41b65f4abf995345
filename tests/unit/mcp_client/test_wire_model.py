"""Validation of received JSON: strict, without pydantic's exceptions and without the value."""

import traceback
from typing import Any

import pytest
from pydantic import Field

from cci_plugins.errors import ProtocolError
from cci_plugins.mcp_client.wire_model import Text, Timestamp, TolerantModel, WireModel

SECRET = "sécret-" * 1000


class Strict(WireModel):
    text_value: Text
    count: int = 0
    at: Timestamp = None
    data: dict[Text, Any] | None = None


class Tolerant(TolerantModel):
    name: Text
    size: int = Field(7, ge=0)


def test_keys_are_in_camel_case_and_unknown_keys_are_ignored():
    assert Strict.load({"textValue": "a", "other": 1}, "thing").text_value == "a"


def test_lone_surrogates_are_accepted():
    value = Strict.load({"textValue": "\ud800", "data": {"\ud800": "\udfff"}}, "thing")
    assert (value.text_value, value.data) == ("\ud800", {"\ud800": "\udfff"})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"text_value": SECRET}, "textValue: Field required"),
        ({"textValue": [SECRET]}, "textValue: "),
        ({"textValue": SECRET, "count": SECRET}, "count: Input should be a valid integer"),
        ({"textValue": SECRET, "count": True}, "count: Input should be a valid integer"),
        ({"textValue": SECRET, "at": SECRET}, "at: Value error, it is not a time"),
        ({"textValue": SECRET, "at": 7}, "at: Value error, it is not a time"),
        ({"textValue": SECRET, "data": [SECRET]}, "data: "),
        ([SECRET], "it is not an object"),
        (SECRET, "it is not an object"),
        (None, "it is not an object"),
    ],
)
def test_the_error_names_the_key_and_hides_the_value(value, reason):
    with pytest.raises(ProtocolError) as caught:
        Strict.load(value, "thing", hint="do this")
    error = caught.value
    assert str(error).startswith(f"the pool returned an invalid thing ({reason}")
    assert error.hint == "do this"
    shown = "".join(traceback.format_exception(error))
    assert "sécret" not in shown
    assert "pydantic" not in shown


@pytest.mark.parametrize("size", [None, "7", -1, 1.5, [], True])
def test_a_malformed_optional_value_counts_as_missing_in_a_tolerant_model(size):
    assert Tolerant.load({"name": "a", "size": size}, "thing").size == 7


def test_a_required_value_is_required_in_a_tolerant_model_too():
    with pytest.raises(ProtocolError, match="name: "):
        Tolerant.load({"name": 7}, "thing")
