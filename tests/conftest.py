"""Fixtures for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests import watching
from tests.watching import nothing_leaks

from cci_plugins.redaction.registry import SECRETS

__all__ = ["anyio_backend", "nothing_leaks"]

watching.start()


@pytest.fixture(scope="module", autouse=True)
def _unregister_secrets() -> Iterator[None]:
    """Keep the secrets that one module registers from hiding the output of another one."""
    registered: list[str] = []
    register = SECRETS.register

    def record(secret: str) -> None:
        registered.append(secret)
        register(secret)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SECRETS, "register", record)
        yield
    for secret in registered:
        SECRETS.unregister(secret)


@pytest.fixture
def anyio_backend() -> str:
    """Run everything on asyncio, because the sockets of the session pools do."""
    return "asyncio"
