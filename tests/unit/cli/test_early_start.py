"""Early start of the embedded pool by `cci run`."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from cci_plugins.cli.early_start import start_early
from cci_plugins.errors import IsolationError
from cci_plugins.models import Execution
from cci_plugins.pools.local.isolation import interpreter
from cci_plugins.testing import FakeSessionPool


class Pool(FakeSessionPool):
    """An embedded pool that takes its time to start, or cannot."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(Execution())
        self.error = error
        self.events: list[str] = []

    def expect_session(self) -> None:
        self.events.append("expects a session")

    async def start(self) -> None:
        if self.error is not None:
            raise self.error
        await anyio.sleep(0.01)
        self.events.append("started")

    async def aclose(self) -> None:
        self.events.append("closed")


def test_the_embedded_pool_starts_while_the_block_goes_on() -> None:
    pool = Pool()
    with start_early(pool) as wait_until_started:
        wait_until_started()
        assert pool.events == ["expects a session", "started"]
    assert "closed" not in pool.events  # its interpreter does that


def test_a_pool_that_cannot_start_raises_its_error_and_is_closed() -> None:
    pool = Pool(IsolationError("no isolation works"))
    with (
        pytest.raises(IsolationError, match="no isolation works"),
        start_early(pool) as wait_until_started,
    ):
        wait_until_started()
    assert pool.events[-1] == "closed"


def test_a_block_that_fails_before_it_has_an_interpreter_closes_the_pool() -> None:
    pool = Pool()
    with pytest.raises(KeyboardInterrupt), start_early(pool):
        raise KeyboardInterrupt
    assert pool.events[-1] == "closed"


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is always run")
async def test_this_interpreter_is_described_as_it_describes_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = Path(sys.executable)
    own = interpreter._describe_own(python)
    monkeypatch.setattr(interpreter, "_describe_own", lambda _: None)
    assert own is None or own == await interpreter._query(python)
