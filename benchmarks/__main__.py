"""Entry point of `make bench`, which measures every ratio and prints a table.

The exit code is 1 if a ratio misses its aim by more than half.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import subprocess
import sys
import time

from . import adapters, azure, embedded, files, host_tools, served, starts
from .measure import Ratio

MAX_EXCESS = 1.5


def measure_import() -> Ratio:
    """Compare the import of the package with that of httpx, each in new processes, in turns."""
    times: dict[str, list[float]] = {"cci_plugins": [], "httpx": []}
    for _ in range(9):
        for name, measured in times.items():
            code = (
                f"from time import perf_counter as now; t = now(); import {name}; print(now() - t)"
            )
            command = [sys.executable, "-c", code]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            measured.append(float(run.stdout) * 1000)
    ours, theirs = (sorted(measured)[4] for measured in times.values())
    return Ratio("import cci_plugins", ours, theirs, "import httpx", 1.0)


async def measure() -> bool:
    """Measure everything, print each row as soon as it is known, and return whether all is fine."""
    is_fine = True
    for module in (embedded, starts, adapters, host_tools, served, azure):
        is_fine &= _print_rows(await module.measure())
    ratios, speeds = await files.measure()
    is_fine &= _print_rows([*ratios, measure_import()])
    print("\n| file | route | into a session (MB/s) | out of it (MB/s) |")
    print("| ---: | --- | ---: | ---: |")
    for speed in speeds:
        print(f"| {speed.size} MB | {speed.route} | {speed.up:.2f} | {speed.down:.2f} |")
    print(f"\n{await embedded.measure_memory()}.", end=" ")
    return is_fine


def _print_rows(ratios: list[Ratio]) -> bool:
    for ratio in ratios:
        print(
            f"| {ratio.name} | {ratio.ours:.2f} | {ratio.against} | {ratio.theirs:.2f} "
            f"| {ratio.value:.2f} | {ratio.aim:.2f} | {'kept' if ratio.is_kept else 'missed'} |",
            flush=True,
        )
    return all(ratio.value <= ratio.aim * MAX_EXCESS for ratio in ratios)


def main() -> int:
    logging.disable(logging.WARNING)
    started = time.monotonic()
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}\n")
    print("| what | ours (ms) | against | theirs (ms) | ratio | aim | |")
    print("| --- | ---: | --- | ---: | ---: | ---: | --- |", flush=True)
    is_fine = asyncio.run(measure())
    print(f"The whole run took {time.monotonic() - started:.0f} s")
    return int(not is_fine)


sys.exit(main())
