"""What can be uploaded: every kind of bytes, in one piece or in chunks."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cci_plugins.errors import FileTooLargeError, FileTransferError
from cci_plugins.files.source import Uploadable, make_source

pytestmark = pytest.mark.anyio


def generate() -> Iterator[bytes | bytearray | memoryview]:
    yield b"a,b\n"
    yield bytearray(b"1,")
    yield memoryview(b"2\n")


async def generate_later() -> AsyncIterator[bytes | bytearray | memoryview]:
    for chunk in generate():
        yield chunk


SOURCES = {
    "bytes": lambda: b"a,b\n1,2\n",
    "bytearray": lambda: bytearray(b"a,b\n1,2\n"),
    "memoryview": lambda: memoryview(b"a,b\n1,2\n"),
    "a file object": lambda: io.BytesIO(b"a,b\n1,2\n"),
    "a list": lambda: list(generate()),
    "a generator": generate,
    "an asynchronous generator": generate_later,
}


async def read(content: Uploadable, limit: int = 100) -> bytes:
    source = await make_source(content, limit=limit)
    try:
        return b"".join([chunk async for chunk in source.chunks()])
    finally:
        source.close()


@pytest.mark.parametrize("make", SOURCES.values(), ids=list(SOURCES))
async def test_every_kind_of_bytes_can_be_uploaded(make: object) -> None:
    assert callable(make)
    assert await read(make()) == b"a,b\n1,2\n"


async def test_a_bytearray_that_changes_after_the_call_is_uploaded_as_it_was() -> None:
    content = bytearray(b"before")
    source = await make_source(content, limit=100)
    content[:] = b"after!"
    assert b"".join([chunk async for chunk in source.chunks()]) == b"before"


async def test_chunks_of_other_types_and_too_many_of_them_are_refused() -> None:
    for content in ([1, 2], ["text"], iter([None])):
        with pytest.raises(FileTransferError, match="instead of bytes"):
            await read(content)  # type: ignore[arg-type]
    with pytest.raises(FileTooLargeError):
        await read(generate(), limit=5)
    with pytest.raises(FileTransferError, match="cannot upload a int"):
        await read(7)  # type: ignore[arg-type]


async def test_a_file_that_is_rewritten_while_it_is_uploaded_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"x" * 600_000)
    source = await make_source(path, limit=10**9)
    chunks = source.chunks()
    await anext(chunks)
    path.write_bytes(b"y" * 600_000)
    os.utime(path, ns=(0, 1))
    with pytest.raises(FileTransferError, match="changed while it was uploaded"):
        [chunk async for chunk in chunks]
