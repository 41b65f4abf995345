"""Counters and histograms of runs, files and sessions. Without a configured SDK they do nothing.

`docs/guides/tracing.md` lists the names. No attribute has a session, a key, code or output.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, UpDownCounter

RUNS = "cci.runs"
DURATION = "cci.run.duration"
CPU = "cci.run.cpu_time"
FILE_BYTES = "cci.file.bytes"
LIVE_SESSIONS = "cci.sessions.live"
LOSSES = "cci.session.losses"
RETRIES = "cci.retries"


class _Instruments(NamedTuple):
    """The instruments of this process."""

    runs: Counter
    duration: Histogram
    cpu: Histogram
    file_bytes: Counter
    live_sessions: UpDownCounter
    losses: Counter
    retries: Counter


@cache
def _get_instruments() -> _Instruments:
    """Create the instruments once. The API binds them to a provider that is set later."""
    from opentelemetry import metrics  # noqa: PLC0415 - loaded with the first run

    meter = metrics.get_meter("cci_plugins")
    return _Instruments(
        meter.create_counter(RUNS, "{run}", "Runs that ended, by status"),
        meter.create_histogram(DURATION, "s", "Duration of runs, by status"),
        meter.create_histogram(CPU, "s", "Processor time of runs, where the pool measures it"),
        meter.create_counter(FILE_BYTES, "By", "Bytes of files, by route and direction"),
        meter.create_up_down_counter(LIVE_SESSIONS, "{session}", "Sessions in use by this process"),
        meter.create_counter(LOSSES, "{loss}", "Sessions whose variables and files were lost"),
        meter.create_counter(RETRIES, "{retry}", "Requests that were sent again, by reason"),
    )


def count_run(pool: str, status: str, seconds: float, cpu_seconds: float | None) -> None:
    """Count a run that ended.

    Args:
        pool: Name of the pool.
        status: `Execution.status`, or `error` if the pool raised one.
        seconds: Duration.
        cpu_seconds: Processor time, where the pool measured it.
    """
    instruments = _get_instruments()
    attributes = {"cci.pool": pool, "cci.execution.status": status}
    instruments.runs.add(1, attributes)
    instruments.duration.record(seconds, attributes)
    if cpu_seconds is not None:
        instruments.cpu.record(cpu_seconds, attributes)


def count_loss(pool: str) -> None:
    """Count a session that was lost or replaced."""
    _get_instruments().losses.add(1, {"cci.pool": pool})


def count_file(route: str, direction: str, size: int) -> None:
    """Count the bytes of a file that arrived.

    Args:
        route: `FileInfo.route`.
        direction: `in` for a file that the session gets, otherwise `out`.
        size: Its bytes.
    """
    attributes = {"cci.file.route": route, "cci.file.direction": direction}
    _get_instruments().file_bytes.add(size, attributes)


def count_live_sessions(pool: str, change: int) -> None:
    """Count sessions that began, or ended if `change` is negative."""
    if change:
        _get_instruments().live_sessions.add(change, {"cci.pool": pool})


def count_retry(reason: str) -> None:
    """Count a request that is sent again.

    Args:
        reason: Class name of the error.
    """
    _get_instruments().retries.add(1, {"error.type": reason})
