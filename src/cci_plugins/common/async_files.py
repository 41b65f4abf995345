"""Files that are read and written in worker threads, and closed also if the caller is cancelled.

Those of anyio 4.10 stay open then, and a cancelled task leaves a thread alone that still reads or
writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Literal

from typing_extensions import Buffer

from .cancellation import finish_in_thread


class AsyncFile:
    """An open file. Each call comes to its end before it returns.

    Args:
        file: The file, in binary mode.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    async def read(self, size: int) -> bytes:
        """Return at most so many bytes, and none at the end."""
        return await finish_in_thread(self._file.read, size)

    async def write(self, data: Buffer) -> None:
        """Write bytes."""
        await finish_in_thread(self._file.write, data)


@asynccontextmanager
async def open_file(path: Path, mode: Literal["rb", "wb", "xb"]) -> AsyncIterator[AsyncFile]:
    """Open a file, and close it at the end.

    Args:
        path: Its path.
        mode: As for `open`.

    Raises:
        OSError: It cannot be opened, or not be written to its end.
    """
    file: IO[bytes] = await finish_in_thread(lambda: path.open(mode), discard=_close)
    try:
        yield AsyncFile(file)
    finally:
        await finish_in_thread(file.close)


def _close(file: IO[bytes]) -> None:
    file.close()
