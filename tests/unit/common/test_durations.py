"""Every duration is a `timedelta` or a number of seconds, within bounds."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cci_plugins import CodeInterpreter, Limits, sync
from cci_plugins.azure.options import Azure
from cci_plugins.common.durations import MAX_DURATION, to_timedelta
from cci_plugins.errors import ConfigurationError, FileTransferError
from cci_plugins.files.sas import SasPolicy
from cci_plugins.models import Execution
from cci_plugins.testing import FakeSessionPool


@pytest.mark.parametrize("given", [1.5, timedelta(seconds=1.5)])
def test_a_number_means_seconds(given: timedelta | float) -> None:
    assert to_timedelta(given, "timeout") == timedelta(seconds=1.5)
    assert to_timedelta(MAX_DURATION.total_seconds(), "timeout") == MAX_DURATION


@pytest.mark.parametrize(
    "given", [0, -1, float("nan"), float("inf"), True, "30", None, timedelta(0), timedelta.max]
)
def test_an_impossible_duration_is_an_error_that_names_the_argument(given: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^timeout must be") as caught:
        to_timedelta(given, "timeout")
    assert "timeout=" in str(caught.value.hint)


def test_every_class_of_options_takes_seconds() -> None:
    limits = Limits(execution_timeout=30, idle_session=0)
    assert (limits.execution_timeout, limits.idle_session) == (timedelta(seconds=30), timedelta(0))
    assert limits == Limits(timedelta(seconds=30), idle_session=timedelta(0))
    assert Azure(patience=60).patience == timedelta(minutes=1)  # type: ignore[arg-type]
    assert SasPolicy(clock_skew=60).clock_skew == timedelta(minutes=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="live_sessions is negative"):
        Limits(live_sessions=-1)


class TimingPool(FakeSessionPool):
    """Records the timeout of each run."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[object] = []

    async def execute(self, *_: object, timeout: object, **__: object) -> Execution:  # type: ignore[override]
        self.timeouts.append(timeout)
        return Execution()


def test_a_run_takes_its_timeout_in_seconds() -> None:
    pool = TimingPool()
    with sync.CodeInterpreter(pool) as interpreter:
        interpreter.run_code("1", timeout=30)
        interpreter.session("alice").run_code("1", timeout=0.5)
        for impossible in (0, float("nan"), "30"):
            with pytest.raises(ConfigurationError, match="timeout must be"):
                interpreter.run_code("1", timeout=impossible)  # type: ignore[arg-type]
        with pytest.raises(FileTransferError, match="expires_in must be"):
            interpreter.session().files.share("a.txt", expires_in=90_000)
    assert pool.timeouts == [timedelta(seconds=30), timedelta(seconds=0.5)]


@pytest.mark.anyio
async def test_the_awaited_api_takes_seconds_too() -> None:
    pool = TimingPool()
    async with CodeInterpreter(pool) as interpreter:
        await interpreter.run_code("1", timeout=30)
    assert pool.timeouts == [timedelta(seconds=30)]
