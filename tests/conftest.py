"""Fixtures for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests import watching
from tests.watching import nothing_leaks

from cci_plugins.redaction.known import SECRETS

__all__ = ["anyio_backend", "nothing_leaks"]

watching.start()


@pytest.fixture(scope="module", autouse=True)
def _secrets_are_forgotten() -> Iterator[None]:
    """What one module plants, which looks like anything, must not cover another one's output."""
    known: list[str] = []
    know = SECRETS.know

    def remember(secret: str) -> None:
        known.append(secret)
        know(secret)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SECRETS, "know", remember)
        yield
    for secret in known:
        SECRETS.unregister(secret)


@pytest.fixture
def anyio_backend() -> str:
    """Everything runs on asyncio: the session pools' sockets do."""
    return "asyncio"
