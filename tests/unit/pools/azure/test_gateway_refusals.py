"""Refusals of a gateway, read by a client that takes its answers as text."""

from __future__ import annotations

from typing import Any

import pytest

from cci_plugins.errors import PoolExhaustedError, SessionLostError
from cci_plugins.mcp_client.failures import META_KEY, dump_error
from cci_plugins.mcp_client.messages import ToolResult
from cci_plugins.pools.azure.replies import read_execution

TEXT = "SessionsCountExceedsLimit: this environment had more than 60 runs in a minute"
REFUSAL = PoolExhaustedError("too many runs", hint="try again in 7 s", retry_after=7)


def read_refusal(details: Any) -> PoolExhaustedError:
    content = ({"type": "text", "text": TEXT},)
    with pytest.raises(PoolExhaustedError) as caught:
        read_execution(ToolResult(content, is_error=True, meta={META_KEY: details}), "s")
    return caught.value


def test_a_refusal_of_a_gateway_keeps_its_hint_and_its_wait() -> None:
    error = read_refusal(dump_error(REFUSAL))
    assert (error.hint, error.retry_after) == ("try again in 7 s", 7)


@pytest.mark.parametrize("details", [None, "text", {}, dump_error(SessionLostError("gone"))])
def test_details_of_another_form_do_not_change_what_the_text_reports(details: Any) -> None:
    error = read_refusal(details)
    assert str(error) == TEXT
    assert error.retry_after is None
