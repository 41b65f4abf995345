"""Fixtures for every test."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Everything runs on asyncio: the session pools' sockets do."""
    return "asyncio"
