"""Files through a real Azurite: by blob staging against plain httpx, and by every route."""

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
ROOM = SandboxLimits(
    memory_bytes=2048 << 20, disk_bytes=640 << 20, file_bytes=600 << 20, address_space_bytes=4 << 30
)
SPEED = 1 / 0.8
GROWTH = 64


@dataclass(frozen=True)
class Routed:
    """How fast files of one size went by one route, in megabytes a second."""

    size: int
    route: str
    up: float
    down: float


@dataclass
class Times:
    """Seconds of each round."""

    up: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)


async def measure() -> tuple[list[Ratio], list[Routed]]:
    with tempfile.TemporaryDirectory(prefix="cci-bench-") as folder:
        home = Path(folder)
        with running_azurite(home) as azurite:
            ratios = await against_httpx(azurite, home)
            return ratios, [routed async for routed in by_every_route(azurite, home)]


async def against_httpx(azurite: Azurite, home: Path, rounds: int = 3) -> list[Ratio]:
    """A large file up and down by blob staging, against PUT and GET of the same bytes."""
    source, target = _file(home, LARGE), home / "out.bin"
    storage, plain = azurite.storage(), Times()
    ours, host, inside = Times(), Peak([os.getpid()]), Peak([])
    async with staging(azurite) as session:
        await _there_and_back(session, _file(home, 1), target, Times())  # opens and imports it all
        inside.processes = _kernel()
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                if which:
                    with host.watched(), inside.watched():
                        route = await _there_and_back(session, source, target, ours)
                    assert route == "blob"
                else:
                    await _plain(azurite, storage, source, target, plain)
    await storage.aclose()
    both = 1000 * statistics.median(map(sum, zip(plain.up, plain.down, strict=True)))
    up, down = (1000 * statistics.median(times) for times in (ours.up, ours.down))
    what, bound = "plain httpx PUT and GET", "its bound"
    size = f"{LARGE} MB"
    return [
        Ratio(f"{size} into a session by blob ({_speed(up)} MB/s)", up, both, what, SPEED),
        Ratio(f"{size} out of a session by blob ({_speed(down)} MB/s)", down, both, what, SPEED),
        Ratio("... memory growth of the program (MB)", host.growth, GROWTH, bound, 1.0),
        Ratio("... memory growth of the session (MB)", inside.growth, GROWTH, bound, 1.0),
    ]


async def by_every_route(azurite: Azurite, home: Path, rounds: int = 3) -> AsyncIterator[Routed]:
    """Smaller files by the pool's files API, in pieces through code, and by blob staging."""
    target = home / "out.bin"
    async with embedded() as endpoint, pieces() as piecewise, staging(azurite) as staged:
        sessions = {"endpoint": endpoint, "pieces": piecewise, "blob": staged}
        for session in sessions.values():
            await _there_and_back(session, _file(home, 1), target, Times())
        for size in SMALLER:
            source = _file(home, size)
            times = {route: Times() for route in sessions}
            for turn in range(rounds):
                for route in sorted(sessions, reverse=turn % 2 == 1):
                    if route == "pieces" and turn:
                        continue  # once is enough: it takes minutes
                    taken = await _there_and_back(sessions[route], source, target, times[route])
                    assert taken == route, (taken, route)
            for route, taken in times.items():
                up, down = (size / statistics.median(part) for part in (taken.up, taken.down))
                yield Routed(size, route, up, down)


@asynccontextmanager
async def staging(azurite: Azurite) -> AsyncIterator[Session]:
    """A session that reaches Azurite, and whose files are all staged there."""
    pool = LocalSessionPool(egress=(azurite.host,), ready_sessions=0, limits=ROOM)
    files = FileOptions(azurite.storage(), stage_from=0)
    async with CodeInterpreter(pool, files=files) as interpreter:
        yield interpreter.session("files")


@asynccontextmanager
async def embedded() -> AsyncIterator[Session]:
    """A session as it is by default."""
    async with CodeInterpreter(LocalSessionPool(ready_sessions=0)) as interpreter:
        yield interpreter.session("files")


@asynccontextmanager
async def pieces() -> AsyncIterator[Session]:
    """A session of a pool that has no files API and no storage."""
    with serving("--emulate", "platform") as (url, key):
        async with CodeInterpreter(PlatformSessionPool(url, key=key)) as interpreter:
            yield interpreter.session("files")


async def _there_and_back(session: Session, source: Path, target: Path, times: Times) -> str | None:
    """Move a file into a session and out of it; the route it took."""
    started = time.perf_counter()
    info = await session.files.upload(source)
    middle = time.perf_counter()
    await session.files.download(source.name, to=target, overwrite=True)
    times.up.append(middle - started)
    times.down.append(time.perf_counter() - middle)
    await session.files.remove(source.name)
    return info.route


async def _plain(
    azurite: Azurite, storage: BlobStorage, source: Path, target: Path, times: Times
) -> None:
    """What anybody would write: one PUT, one GET, streamed, by the same kind of SAS."""
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
        for piece in answer.iter_raw(CHUNK):
            file.write(piece)


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


class Peak:
    """The most that processes' own memory grew while it was watched, in megabytes.

    Files of a session lie in memory too, but are none of its processes': only anonymous pages
    are counted.
    """

    def __init__(self, processes: list[int]) -> None:
        self.processes = processes
        self.growth = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        before, over = self._now(), threading.Event()

        def look() -> None:
            while not over.wait(0.02):
                self.growth = max(self.growth, (self._now() - before) / MB)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _now(self) -> int:
        return sum(map(_anonymous, self.processes))


def _anonymous(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def _kernel() -> list[int]:
    """The processes of the one session there is: those below this one that are fenced."""
    below, waiting = [], [os.getpid()]
    while waiting:
        found = list_children(waiting.pop())
        below += found
        waiting += found
    return [pid for pid in below if _is_fenced(pid)]


def _is_fenced(process: int) -> bool:
    return b"/run/cci/" in Path(f"/proc/{process}/cmdline").read_bytes()


def _file(home: Path, size: int) -> Path:
    """A file of so many megabytes that does not compress."""
    path = home / f"{size}.bin"
    if not path.exists():
        with path.open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(MB))
    return path


def _speed(milliseconds: float) -> int:
    return round(LARGE * 1000 / milliseconds)
