"""Limits of an interpreter and of a sandboxed session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from cci_plugins.errors import ConfigurationError

from .durations import Duration, to_timedelta

MIB = 1024**2


@dataclass(frozen=True, slots=True, init=False)
class Limits:
    """Limits of one interpreter, and of the output that a model may read.

    Durations may be given as numbers of seconds, and are a `timedelta` afterwards.

    Attributes:
        execution_timeout: Longest run, at most 365 days. The default is Azure's limit per execution
            (learn.microsoft.com, Container Apps code interpreter sessions).
        output_characters: Characters of one execution that a model may read.
        file_bytes: Largest file by a pool's own files API. The default is Azure's upload limit.
        inline_bytes: Largest file that is sent within one call of code.
        pieces_bytes: Largest file that is sent through a session's code, in several calls.
        staged_bytes: Largest file by way of Blob Storage.
        live_sessions: Most conversations that hold a session at once. Beyond it, the least
            recently used one is evicted.
        idle_session: How long an unused session is remembered.
        tool_calls: Most calls of host tools in one run.
        tool_calls_at_once: Most of them in progress. Further ones wait.
        tool_call_bytes: Most bytes of the arguments of one call, and of its result, as JSON.
        tool_total_bytes: Most bytes of all arguments and results of one run.
        tool_call_timeout: Longest call of a host tool, with its approval.
        tool_timeout: Longest time that one run may wait for host tools. It does not count
            against `execution_timeout`.
        background_timeout: Longest run of `Session.start_code`.

    Raises:
        ConfigurationError: A duration is invalid, or a number is negative.

    Example:
        ```python
        from cci_plugins import Limits

        limits = Limits(execution_timeout=30, output_characters=4_000)
        ```
    """

    execution_timeout: timedelta
    output_characters: int
    file_bytes: int
    inline_bytes: int
    pieces_bytes: int
    staged_bytes: int
    live_sessions: int
    idle_session: timedelta
    tool_calls: int
    tool_calls_at_once: int
    tool_call_bytes: int
    tool_total_bytes: int
    tool_call_timeout: timedelta
    tool_timeout: timedelta
    background_timeout: timedelta

    def __init__(  # noqa: PLR0917 - the order of the fields
        self,
        execution_timeout: Duration = timedelta(seconds=220),
        output_characters: int = 8_000,
        file_bytes: int = 128 * MIB,
        inline_bytes: int = 256 * 1024,
        pieces_bytes: int = 64 * MIB,
        staged_bytes: int = 5000 * MIB,
        live_sessions: int = 100,
        idle_session: Duration = timedelta(minutes=30),
        *,
        tool_calls: int = 1_000,
        tool_calls_at_once: int = 8,
        tool_call_bytes: int = 4 * MIB,
        tool_total_bytes: int = 64 * MIB,
        tool_call_timeout: Duration = timedelta(minutes=5),
        tool_timeout: Duration = timedelta(minutes=15),
        background_timeout: Duration = timedelta(hours=1),
    ) -> None:
        set_field = partial(object.__setattr__, self)
        set_field("execution_timeout", to_timedelta(execution_timeout, "execution_timeout"))
        set_field("idle_session", to_timedelta(idle_session, "idle_session", allow_zero=True))
        set_field("tool_call_timeout", to_timedelta(tool_call_timeout, "tool_call_timeout"))
        set_field("tool_timeout", to_timedelta(tool_timeout, "tool_timeout"))
        set_field("background_timeout", to_timedelta(background_timeout, "background_timeout"))
        numbers = {
            "output_characters": output_characters,
            "file_bytes": file_bytes,
            "inline_bytes": inline_bytes,
            "pieces_bytes": pieces_bytes,
            "staged_bytes": staged_bytes,
            "live_sessions": live_sessions,
            "tool_calls": tool_calls,
            "tool_calls_at_once": tool_calls_at_once,
            "tool_call_bytes": tool_call_bytes,
            "tool_total_bytes": tool_total_bytes,
        }
        for name, value in numbers.items():
            if value < 0:
                raise ConfigurationError(
                    f"{name} is negative ({value})", hint="pass a positive number"
                )
            set_field(name, value)
        if not tool_calls_at_once:
            raise ConfigurationError("tool_calls_at_once is 0", hint="pass 1 or more")


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of one session of the embedded pool.

    Attributes:
        memory_bytes: Memory of all the session's processes together.
        address_space_bytes: Address space of one process (RLIMIT_AS).
        processes: Processes and threads of the session.
        disk_bytes: Bytes in the session's folder `/mnt/data`.
        scratch_bytes: Bytes in its `/tmp`.
        file_count: Files in its folder and scratch space.
        file_bytes: Largest single file (RLIMIT_FSIZE).
        open_files: Open descriptors of one process.
        stream_characters: Characters kept of each output stream of a run.
        result_bytes: Bytes kept of a run's displayed results.
        runaway_bytes: Bytes of output after which a run is interrupted.
        threads: Threads that numerical libraries (BLAS, OpenMP) start in one process.
    """

    memory_bytes: int = 2048 * MIB
    address_space_bytes: int = 4096 * MIB
    processes: int = 128
    disk_bytes: int = 512 * MIB
    scratch_bytes: int = 256 * MIB
    file_count: int = 50_000
    file_bytes: int = 256 * MIB
    open_files: int = 1024
    stream_characters: int = 6_000_000
    result_bytes: int = 32 * MIB
    runaway_bytes: int = 64 * MIB
    threads: int = 2
