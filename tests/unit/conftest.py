"""Unit tests plant secrets that look like anything; the next test's output must not be covered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cci_plugins.redaction.known import SECRETS


@pytest.fixture(autouse=True)
def _forgotten_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    known: list[str] = []
    know = SECRETS.know

    def remember(secret: str) -> None:
        known.append(secret)
        know(secret)

    monkeypatch.setattr(SECRETS, "know", remember)
    yield
    for secret in known:
        SECRETS.forget(secret)
