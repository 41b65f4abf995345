"""Output is forwarded in order, without secrets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cci_plugins.core.redacted_output import RedactingOutput
from cci_plugins.models import OutputEvent, Result
from cci_plugins.redaction.registry import SECRETS

SECRET = "a-secret-that-the-application-registered"


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    SECRETS.register(SECRET)
    yield
    SECRETS.unregister(SECRET)


def test_a_secret_that_spans_two_chunks_or_a_result_is_redacted() -> None:
    seen: list[OutputEvent] = []
    output = RedactingOutput(seen.append)
    for stream in ("stdout", "stderr"):
        for text in ("it is ", SECRET[:20], SECRET[20:], " indeed", SECRET[:9]):
            output.handle(OutputEvent(stream, text))
    output.handle(OutputEvent("result", "", Result({"text/plain": SECRET})))
    output.handle(OutputEvent("result", ""))
    output.finish()
    for stream in ("stdout", "stderr"):
        text = "".join(event.text for event in seen if event.stream == stream)
        assert text.startswith("it is ")
        assert text.endswith(f" indeed{SECRET[:9]}")
        assert SECRET not in text
    results = [event.result for event in seen if event.stream == "result"]
    assert SECRET not in str(results)
    assert results[1] is None
