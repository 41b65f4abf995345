"""Fixtures for every test."""

from __future__ import annotations

import pytest
from tests import watching
from tests.watching import nothing_leaks

__all__ = ["anyio_backend", "nothing_leaks"]

watching.start()


@pytest.fixture
def anyio_backend() -> str:
    """Everything runs on asyncio: the session pools' sockets do."""
    return "asyncio"
