"""Errors of Azure: their bodies, and the exceptions they become."""

from __future__ import annotations

from typing import Any

import pytest

from cci_plugins.azure.failures import ArmError, build_error, clean, parse_error
from cci_plugins.azure.pool_resource import _translate_error
from cci_plugins.errors import (
    AuthenticationError,
    PoolError,
    PoolUnavailableError,
    ProtocolError,
    ProvisioningError,
)


def test_an_error_keeps_the_message_of_azure_without_secrets() -> None:
    details = [{"code": "Inner", "message": "because of sig=abc%2F and Bearer abc.def.ghi"}]
    body = {"error": {"code": "Outer", "message": "It failed.", "details": details}}
    error = build_error("step", 400, body)
    assert isinstance(error, ProvisioningError)
    assert (error.code, error.step) == ("Inner", "step")
    assert "because of sig=" not in str(error)
    assert "abc" not in str(error)
    assert isinstance(build_error("step", 401, None), AuthenticationError)
    assert str(build_error("step", 503, "not JSON")).startswith("step: Azure answered 503")
    assert len(clean("x" * 10_000)) < 700


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"code": "A", "message": "b"}}, ("A", "b (A)")),
        ({"code": "A", "message": "b"}, ("A", "b (A)")),
        ({"error": {"message": "b"}}, ("", "b")),
        ({"error": {"code": "A", "message": "b", "details": [None, {"message": "b"}]}}, None),
        ({"error": "text"}, ("", "")),
        ([], ("", "")),
        (None, ("", "")),
    ],
)
def test_error_bodies_of_every_form_are_read(body: Any, expected: tuple[str, str] | None) -> None:
    assert parse_error(body) == (expected or ("A", "b (A)"))


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (0, PoolUnavailableError, True),
        (400, ProtocolError, False),
        (403, AuthenticationError, False),
        (404, PoolError, False),
        (429, PoolUnavailableError, True),
        (503, PoolUnavailableError, True),
    ],
)
def test_a_failed_read_of_a_pool_is_an_error_of_the_pool(
    status: int, kind: type[Exception], *, retryable: bool
) -> None:
    error = build_error("session pool", status, {"code": "Code", "message": "A message."})
    assert isinstance(error, ArmError)
    translated = _translate_error(error)
    assert type(translated) is kind
    assert translated.retryable is retryable
    assert str(translated) == "session pool: A message. (Code)"
    assert translated.hint
