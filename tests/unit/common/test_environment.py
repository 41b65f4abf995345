"""Names, values and secrets of environment variables."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from pydantic import SecretStr

from cci_plugins import Secret
from cci_plugins.common.environment import MAX_ENVIRONMENT_BYTES, build_session_environment
from cci_plugins.errors import ConfigurationError
from cci_plugins.mcp_client.executions import dump_env, load_env
from cci_plugins.redaction import redact

TOKEN = "planted-3c9d1f"


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"1A": "x"}, "invalid name of a variable ('1A')"),
        ({"A=B": "x"}, "invalid name"),
        ({"": "x"}, "invalid name"),
        ({"Ä": "x"}, "invalid name"),
        ({7: "x"}, "invalid name"),
        ({"SESSION_FOLDER": "/"}, "each session sets it"),
        ({"A": 1}, "must be text or a Secret, not int"),
        ({"A": None}, "not NoneType"),
        ({"A": f"{TOKEN}\0"}, "a character that no variable can have"),
        ({"A": f"{TOKEN}\ud800"}, "a character that no variable can have"),
        ({"A": Secret("short")}, "too short to be hidden"),
        ({"A": "x" * MAX_ENVIRONMENT_BYTES}, "65,537 bytes"),
        ([("A", "x")], "must be a mapping"),
    ],
)
def test_variables_that_cannot_be_set_are_refused_without_their_value(env: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_session_environment(env)
    assert text in str(caught.value)
    assert TOKEN not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize("kind", [Secret, SecretStr])
def test_a_secret_is_hidden_while_its_variables_are_in_use(kind: Any) -> None:
    env = build_session_environment({"A": kind(TOKEN), "B": "plain-value-of-b"})
    assert TOKEN not in repr(env) + repr(Secret(TOKEN))
    assert redact(f"{TOKEN} plain-value-of-b") == "[redacted] plain-value-of-b"
    sent = load_env(dump_env(env))
    assert sent == env
    merged = env.merge(build_session_environment({"A": "not secret any longer", "C": "3"}))
    assert (merged.secrets, merged.values["A"]) == (frozenset(), "not secret any longer")
    del env, sent, merged
    gc.collect()
    assert redact(TOKEN) == TOKEN


@pytest.mark.parametrize("value", [[], {"values": 1}, {"values": {}}, {"values": {}, "secrets": 1}])
def test_malformed_variables_of_a_request_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError):
        load_env(value)
    assert load_env(None) is None
