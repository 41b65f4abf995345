"""`make bench`: every ratio in one run, as a table; exit code 1 when an aim is missed by far."""

from __future__ import annotations

import asyncio
import logging
import platform
import subprocess
import sys
import time

from . import azure, doors, embedded, files, served
from .measure import Ratio

FAR = 1.5


def import_time() -> Ratio:
    """Importing the package against importing httpx, each in fresh processes, in turns."""
    times: dict[str, list[float]] = {"cci_plugins": [], "httpx": []}
    for _ in range(9):
        for name, taken in times.items():
            code = (
                f"from time import perf_counter as now; t = now(); import {name}; print(now() - t)"
            )
            command = [sys.executable, "-c", code]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            taken.append(float(run.stdout) * 1000)
    ours, theirs = (sorted(taken)[4] for taken in times.values())
    return Ratio("import cci_plugins", ours, theirs, "import httpx", 1.0)


async def measure() -> tuple[list[Ratio], list[files.Routed], str]:
    ratios = [await embedded.round_trip(), await embedded.first_result(), await embedded.at_once()]
    ratios += await doors.ratios()
    ratios += await served.against_all()
    ratios += await azure.ratios()
    moved, routed = await files.measure()
    return [*ratios, *moved, import_time()], routed, await embedded.memory()


def main() -> int:
    logging.disable(logging.WARNING)
    started = time.monotonic()
    ratios, routed, note = asyncio.run(measure())
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}\n")
    print("| what | ours (ms) | against | theirs (ms) | ratio | aim | |")
    print("| --- | ---: | --- | ---: | ---: | ---: | --- |")
    for ratio in ratios:
        print(
            f"| {ratio.name} | {ratio.ours:.2f} | {ratio.against} | {ratio.theirs:.2f} "
            f"| {ratio.value:.2f} | {ratio.aim:.2f} | {'kept' if ratio.kept else 'missed'} |"
        )
    print("\n| file | route | into a session (MB/s) | out of it (MB/s) |")
    print("| ---: | --- | ---: | ---: |")
    for one in routed:
        print(f"| {one.size} MB | {one.route} | {one.up:.2f} | {one.down:.2f} |")
    print(f"\n{note}; all of it took {time.monotonic() - started:.0f} s")
    return int(any(ratio.value > ratio.aim * FAR for ratio in ratios))


sys.exit(main())
