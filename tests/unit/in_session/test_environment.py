"""Variables that an application gives the code, and the measurement of a run, in a session."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import pytest

from cci_plugins.common.usage import Usage, load_usage
from cci_plugins.in_session.environment import GivenEnvironment
from cci_plugins.in_session.usage import UsageMeter


def test_only_changes_are_set_and_what_was_there_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHECK_A", "before")
    monkeypatch.delenv("CHECK_B", raising=False)
    environment = GivenEnvironment()
    environment.apply({"CHECK_A": "1", "CHECK_B": "2"})
    os.environ["CHECK_A"] = "of the code"
    environment.apply({"CHECK_A": "1", "CHECK_B": "3"})
    assert (os.environ["CHECK_A"], os.environ["CHECK_B"]) == ("of the code", "3")
    environment.apply({})
    assert (os.environ["CHECK_A"], os.environ.get("CHECK_B")) == ("before", None)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such accounting")
def test_a_meter_reads_processor_time_and_memory() -> None:
    meter = UsageMeter()
    start = time.process_time()
    while time.process_time() - start < 0.05:
        pass
    usage = load_usage(meter.read())
    assert usage is not None
    assert usage.cpu_seconds >= 0.05
    assert usage.peak_memory_bytes > 1_000_000


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"cpuSeconds": True, "peakMemoryBytes": 1},
        {"cpuSeconds": "1", "peakMemoryBytes": 1},
        {"cpuSeconds": -1, "peakMemoryBytes": 1},
        {"cpuSeconds": float("nan"), "peakMemoryBytes": 1},
        {"cpuSeconds": 1, "peakMemoryBytes": 10**30},
        {"cpuSeconds": 1, "peakMemoryBytes": 1.5},
    ],
)
def test_a_forged_measurement_counts_as_none(value: Any) -> None:
    assert load_usage(value) is None
    assert load_usage({"cpuSeconds": 1, "peakMemoryBytes": 2}) == Usage(1.0, 2)
