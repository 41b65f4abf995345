"""Benchmarks of file transfer with a real Azurite: blob staging, and every other route."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio.to_thread
import httpx
from tests.integration._azurite import Azurite, running_azurite

from cci_plugins import CodeInterpreter, LocalSessionPool, PlatformSessionPool, SandboxLimits
from cci_plugins.core.session import Session
from cci_plugins.files.blob import BlobStorage
from cci_plugins.files.file_transfer import FileOptions
from cci_plugins.pools.local.isolation.launcher.supervisor import list_children

from .measure import Ratio
from .processes import serving

MB = 1_000_000
CHUNK = 1 << 20
LARGE = 500
SMALLER = (1, 10, 50)
LIMITS = SandboxLimits(
    memory_bytes=2048 << 20, disk_bytes=640 << 20, file_bytes=600 << 20, address_space_bytes=4 << 30
)
INTO_AIM, OUT_AIM = 1.1, 1.25
MAX_GROWTH_MB = 64


@dataclass(frozen=True)
class RouteSpeed:
    """Speed of one route for files of one size, in megabytes a second."""

    size: int
    route: str
    up: float
    down: float


@dataclass
class Times:
    """Duration of each round in seconds."""

    up: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)


async def measure() -> tuple[list[Ratio], list[RouteSpeed]]:
    with tempfile.TemporaryDirectory(prefix="cci-bench-") as folder:
        path = Path(folder)
        with running_azurite(path) as azurite:
            ratios = await measure_blob_staging(azurite, path)
            return ratios, [speed async for speed in measure_routes(azurite, path)]


async def measure_blob_staging(azurite: Azurite, folder: Path, rounds: int = 3) -> list[Ratio]:
    """Compare a large file's way by blob staging with PUT and GET of the same bytes."""
    source, target = _create_file(folder, LARGE), folder / "out.bin"
    storage, plain = azurite.storage(), Times()
    ours, host, inside = Times(), MemoryPeak([os.getpid()]), MemoryPeak([])
    async with open_staging_session(azurite) as session:
        await _transfer(session, _create_file(folder, 1), target, Times())  # opens and imports
        inside.processes = _find_session_processes()
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                if which:
                    with host.watch(), inside.watch():
                        route = await _transfer(session, source, target, ours)
                    assert route == "blob"
                else:
                    await _transfer_by_httpx(azurite, storage, source, target, plain)
    await storage.aclose()
    both = 1000 * statistics.median(map(sum, zip(plain.up, plain.down, strict=True)))
    up, down = (1000 * statistics.median(times) for times in (ours.up, ours.down))
    peer, bound = "plain httpx PUT and GET", "its bound"
    size = f"{LARGE} MB"
    return [
        Ratio(f"{size} into a session by blob ({_get_speed(up)} MB/s)", up, both, peer, INTO_AIM),
        Ratio(
            f"{size} out of a session by blob ({_get_speed(down)} MB/s)",
            down,
            both,
            peer,
            OUT_AIM,
        ),
        Ratio("... memory growth of the program (MB)", host.growth, MAX_GROWTH_MB, bound, 1.0),
        Ratio("... memory growth of the session (MB)", inside.growth, MAX_GROWTH_MB, bound, 1.0),
    ]


async def measure_routes(
    azurite: Azurite, folder: Path, rounds: int = 3
) -> AsyncIterator[RouteSpeed]:
    """Measure smaller files by the pool's files API, in pieces through code, and by blob."""
    target = folder / "out.bin"
    async with (
        open_embedded_session() as endpoint,
        open_text_only_session() as pieces,
        open_staging_session(azurite) as blob,
    ):
        sessions = {"endpoint": endpoint, "pieces": pieces, "blob": blob}
        for session in sessions.values():
            await _transfer(session, _create_file(folder, 1), target, Times())
        for size in SMALLER:
            source = _create_file(folder, size)
            times = {route: Times() for route in sessions}
            for turn in range(rounds):
                for route in sorted(sessions, reverse=turn % 2 == 1):
                    if route == "pieces" and turn:
                        continue  # one round is enough, since it takes minutes
                    used = await _transfer(sessions[route], source, target, times[route])
                    assert used == route, (used, route)
            for route, durations in times.items():
                up = size / statistics.median(durations.up)
                down = size / statistics.median(durations.down)
                yield RouteSpeed(size, route, up, down)


@asynccontextmanager
async def open_staging_session(azurite: Azurite) -> AsyncIterator[Session]:
    """Open a session that reaches Azurite and stages all its files there."""
    pool = LocalSessionPool(egress=(azurite.host,), ready_sessions=0, limits=LIMITS)
    files = FileOptions(azurite.storage(), stage_from=0)
    async with CodeInterpreter(pool, files=files) as interpreter:
        yield interpreter.session("files")


@asynccontextmanager
async def open_embedded_session() -> AsyncIterator[Session]:
    """Open a session of the embedded pool with default settings."""
    async with CodeInterpreter(LocalSessionPool(ready_sessions=0)) as interpreter:
        yield interpreter.session("files")


@asynccontextmanager
async def open_text_only_session() -> AsyncIterator[Session]:
    """Open a session of a pool without a files API and without storage."""
    with serving("--emulate", "platform") as (url, key):
        async with CodeInterpreter(PlatformSessionPool(url, key=key)) as interpreter:
            yield interpreter.session("files")


async def _transfer(session: Session, source: Path, target: Path, times: Times) -> str | None:
    """Upload a file to a session, download it again, and return the route."""
    started = time.perf_counter()
    info = await session.files.upload(source)
    middle = time.perf_counter()
    await session.files.download(source.name, to=target, overwrite=True)
    times.up.append(middle - started)
    times.down.append(time.perf_counter() - middle)
    await session.files.remove(source.name)
    return info.route


async def _transfer_by_httpx(
    azurite: Azurite, storage: BlobStorage, source: Path, target: Path, times: Times
) -> None:
    """Transfer a file as anyone would: one streamed PUT and GET, by the same kind of SAS."""
    async with storage.staged(LARGE * MB) as blob:
        put, get = await blob.link("cw"), await blob.link("r")

        def move() -> None:
            with httpx.Client(verify=str(azurite.ca), timeout=120, trust_env=False) as client:
                started = time.perf_counter()
                _put(client, put.reveal(), source)
                middle = time.perf_counter()
                _get(client, get.reveal(), target)
                times.up.append(middle - started)
                times.down.append(time.perf_counter() - middle)

        await anyio.to_thread.run_sync(move)


def _put(client: httpx.Client, url: str, source: Path) -> None:
    headers = {"x-ms-blob-type": "BlockBlob", "Content-Length": str(source.stat().st_size)}
    client.put(url, content=_read(source), headers=headers).raise_for_status()


def _get(client: httpx.Client, url: str, target: Path) -> None:
    with client.stream("GET", url) as answer, target.open("wb") as file:
        answer.raise_for_status()
        for chunk in answer.iter_raw(CHUNK):
            file.write(chunk)


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


class MemoryPeak:
    """Highest growth of the memory of some processes while it was watched, in megabytes.

    Only anonymous pages count, since the files of a session lie in memory too but belong to
    none of its processes.
    """

    def __init__(self, processes: list[int]) -> None:
        self.processes = processes
        self.growth = 0.0

    @contextmanager
    def watch(self) -> Iterator[None]:
        start, end = self._measure(), threading.Event()

        def sample() -> None:
            while not end.wait(0.02):
                self.growth = max(self.growth, (self._measure() - start) / MB)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _measure(self) -> int:
        return sum(map(_measure_anonymous_memory, self.processes))


def _measure_anonymous_memory(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def _find_session_processes() -> list[int]:
    """Return the sandboxed descendants of this process, which belong to the only session."""
    descendants, unvisited = [], [os.getpid()]
    while unvisited:
        children = list_children(unvisited.pop())
        descendants += children
        unvisited += children
    return [pid for pid in descendants if _is_sandboxed(pid)]


def _is_sandboxed(process: int) -> bool:
    return b"/run/cci/" in Path(f"/proc/{process}/cmdline").read_bytes()


def _create_file(folder: Path, size: int) -> Path:
    """Create a file of random bytes, which do not compress.

    Args:
        folder: Folder of the file.
        size: Size in megabytes.
    """
    path = folder / f"{size}.bin"
    if not path.exists():
        with path.open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(MB))
    return path


def _get_speed(milliseconds: float) -> int:
    return round(LARGE * 1000 / milliseconds)
