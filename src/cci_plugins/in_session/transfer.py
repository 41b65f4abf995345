"""Transfer of one file between a disk and a URL, whole or not at all.

The same code runs on this machine and, sent as source, in sessions. `transfer` returns failures as
reports. Reports and progress never contain the URL, since the URL is a secret.

A job has a time limit. When it is over, the report states how far the transfer came, and another
job continues from there. A download continues only while the server's ETag stays the same. So parts
of two versions of a file are never put together.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import time
from base64 import b64encode
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Any

from cci_plugins.in_session.url_client import CHUNK, TransferFault, UrlClient

BLOCK = 32 << 20  # bytes
# One request may have 5,000 MiB (learn.microsoft.com, Put Blob), but it cannot be resumed.
MAX_SINGLE_PUT = 1 << 30
MAX_TRIES = 6
RETRY_PAUSE = 0.25  # seconds, doubled after each try without progress

ProgressHandler = Callable[[int], object]


class Download:
    """Download of a URL into a file, which gets its name when it is whole.

    Args:
        client: The client of the URL.
        path: The file. An existing one is replaced.
        on_progress: Called with the bytes that have arrived.
        limit: Most bytes to accept.
        deadline: When to stop and let another job continue, by `time.monotonic`.
    """

    def __init__(
        self,
        client: UrlClient,
        path: Path,
        on_progress: ProgressHandler,
        *,
        limit: int,
        deadline: float,
    ) -> None:
        self._client, self._path, self._on_progress = client, path, on_progress
        self._limit, self._deadline = limit, deadline
        self._part = path.with_name(f".cci-part-{hashlib.sha256(path.name.encode()).hexdigest()}")
        self._hash = hashlib.sha256()
        self._offset = 0

    def run(self, expected: dict[str, Any], etag: str | None, *, resumed: bool) -> dict[str, Any]:
        """Fetch the whole file, or until the deadline.

        Args:
            expected: `size` and `sha256`, or None for what is not known.
            etag: The file's ETag when an earlier job began.
            resumed: Whether an earlier job has left a part of the file.
        """
        self._etag = etag
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._part.open("r+b" if resumed else "wb") as file:
                while chunk := file.read(CHUNK) if resumed else b"":
                    self._add_chunk(chunk)
                if not self._fetch_with_retry(file):
                    return {"more": self._offset, "etag": self._etag}
            result = {"size": self._offset, "sha256": self._hash.hexdigest()}
            _check_result(result, expected)
            self._part.replace(self._path)
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise
        return result

    def _fetch_with_retry(self, file: IO[bytes]) -> bool:
        tries, pause = 0, RETRY_PAUSE
        while True:
            before = self._offset
            try:
                return self._fetch_once(file)
            except TransferFault as fault:
                tries, pause = (0, RETRY_PAUSE) if self._offset > before else (tries + 1, pause * 2)
                if (
                    not fault.retryable
                    or tries >= _get_max_tries(fault)
                    or time.monotonic() > self._deadline
                ):
                    raise
            time.sleep(min(pause, 4.0))

    def _fetch_once(self, file: IO[bytes]) -> bool:
        headers = {}
        if self._offset and self._etag:  # without an ETag it may be another version by now
            headers = {"Range": f"bytes={self._offset}-"}
            if not self._etag.startswith("W/"):
                headers["If-Match"] = self._etag
        with self._client.send("GET", headers) as response:
            if response.status == http.client.PARTIAL_CONTENT:
                _check_part(response.headers, self._etag, self._offset)
            elif self._offset:
                self._start_over(file)
            self._etag = response.headers.get("ETag")
            total = None if response.length is None else self._offset + response.length
            for chunk in self._client.read_chunks(response):
                if self._offset + len(chunk) > self._limit:
                    raise TransferFault(
                        "too_large", f"the file is larger than {self._limit:,} bytes"
                    )
                file.write(chunk)
                self._add_chunk(chunk)
                if time.monotonic() > self._deadline:
                    if not self._etag:
                        raise TransferFault(
                            "broken", "it takes too long, and the server sends no ETag"
                        )
                    return False
        if total is not None and self._offset < total:
            raise TransferFault("broken", "the connection ended too early", retryable=True)
        return True

    def _add_chunk(self, chunk: Any) -> None:
        self._hash.update(chunk)
        self._offset += len(chunk)
        self._on_progress(self._offset)

    def _start_over(self, file: IO[bytes]) -> None:
        file.seek(0)
        file.truncate()
        self._hash, self._offset = hashlib.sha256(), 0


class Upload:
    """Upload of a file to a blob's URL, in one request, or in blocks if that breaks.

    Args:
        client: The client of the URL.
        path: The file.
        on_progress: Called with the bytes that were sent.
        deadline: When to stop and let another job continue, by `time.monotonic`.
        replaces: Write only over a blob that is there. One that was deleted stays deleted then.
    """

    def __init__(
        self,
        client: UrlClient,
        path: Path,
        on_progress: ProgressHandler,
        *,
        deadline: float,
        replaces: bool,
    ) -> None:
        self._client, self._path = client, path
        self._on_progress, self._deadline = on_progress, deadline
        self._condition = {"If-Match": "*"} if replaces else {}

    def run(self, blocks: int | None) -> dict[str, Any]:
        """Send the whole file, or until the deadline.

        Args:
            blocks: Blocks that earlier jobs have sent, or None for the first job.
        """
        before = self._path.stat()
        report = self._send(before.st_size, blocks)
        after = self._path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise TransferFault("changed", "the file changed during the transfer")
        return report

    def _send(self, size: int, blocks: int | None) -> dict[str, Any]:
        if blocks is None and size <= MAX_SINGLE_PUT:
            try:
                return {"size": size, "sha256": self._put_whole(size)}
            except TransferFault as fault:
                if not fault.retryable:
                    raise
        done = self._put_blocks(size, blocks or 0)
        if done * BLOCK < size:
            return {"more": done}
        names = "".join(f"<Latest>{_encode_block_id(number)}</Latest>" for number in range(done))
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{names}</BlockList>'.encode()
        self._call_with_retry(lambda: self._put(body, len(body), self._condition, "comp=blocklist"))
        digest = hashlib.sha256()
        with self._path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return {"size": size, "sha256": digest.hexdigest()}

    def _put_whole(self, size: int) -> str:
        digest = hashlib.sha256()
        headers = self._condition | {"x-ms-blob-type": "BlockBlob"}
        self._put(self._read(0, size, digest), size, headers)
        return digest.hexdigest()

    def _put_blocks(self, size: int, done: int) -> int:
        while done * BLOCK < size and (not done or time.monotonic() < self._deadline):
            start, length = done * BLOCK, min(BLOCK, size - done * BLOCK)
            query = f"comp=block&blockid={_encode_block_id(done)}"
            self._call_with_retry(
                lambda start=start, length=length, query=query: self._put(  # type: ignore[misc]
                    self._read(start, length), length, {}, query
                )
            )
            done += 1
        return done

    def _call_with_retry(self, send: Callable[[], None]) -> None:
        pause = RETRY_PAUSE
        for tries in range(1, MAX_TRIES + 1):
            try:
                return send()
            except TransferFault as fault:
                if not fault.retryable or tries >= _get_max_tries(fault):
                    raise
            time.sleep(pause)
            pause *= 2
        return None

    def _put(self, data: Any, length: int, headers: dict[str, str], query: str = "") -> None:
        kind = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
        try:
            self._client.send("PUT", headers | kind, data, query).close()
        finally:
            if isinstance(data, Generator):
                data.close()  # and its file, even if sending stopped in the middle

    def _read(self, start: int, length: int, digest: Any = None) -> Generator[bytes]:
        with self._path.open("rb") as file:
            file.seek(start)
            while length and (chunk := file.read(min(CHUNK, length))):
                length -= len(chunk)
                if digest is not None:
                    digest.update(chunk)
                yield chunk
                start += len(chunk)
                self._on_progress(start)


def transfer(job: dict[str, Any], on_progress: ProgressHandler) -> dict[str, Any]:
    """Run one job.

    Args:
        job: `verb` (`get` or `put`), `url`, `path` and `seconds`. Where they are known, also `ca`,
            `public_only`, `proxy_socket`, `limit`, `size`, `sha256`. `replaces` for a blob that
            must be there. To continue an earlier job, its `more` and `etag`.
        on_progress: Called with the bytes that were moved so far.

    Returns:
        `size` and `sha256` after success. `more` and, for a download, `etag` when the time was
        over. `failed`, a sentence, and its `kind` after a failure.
    """
    deadline = time.monotonic() + job["seconds"]
    path = Path(job["path"])
    try:
        client = UrlClient(
            job["url"],
            ca=job.get("ca"),
            public_only=job.get("public_only", False),
            proxy_socket=job.get("proxy_socket"),
        )
        if job["verb"] == "put":
            replaces = job.get("replaces", False)
            upload = Upload(client, path, on_progress, deadline=deadline, replaces=replaces)
            return upload.run(job.get("more"))
        limit = job.get("limit") or 1 << 62
        more = job.get("more")
        return Download(client, path, on_progress, limit=limit, deadline=deadline).run(
            {"size": job.get("size"), "sha256": job.get("sha256")},
            job.get("etag"),
            resumed=more is not None,
        )
    except TransferFault as fault:
        return {"failed": str(fault), "kind": fault.kind}
    except FileNotFoundError:
        return {"failed": "the file does not exist", "kind": "missing"}
    except OSError as error:
        return {"failed": os.strerror(error.errno or errno.EIO), "kind": "disk"}


def _get_max_tries(fault: TransferFault) -> int:
    return 2 if fault.kind == "unreachable" else MAX_TRIES


def _encode_block_id(number: int) -> str:
    return b64encode(f"{number:06d}".encode()).decode()


def _check_result(result: dict[str, Any], expected: dict[str, Any]) -> None:
    for what, value in expected.items():
        if value is not None and result[what] != value:
            raise TransferFault("changed", f"its {what} is not the expected one")


def _check_part(headers: Any, etag: str | None, offset: int) -> None:
    """Refuse a part that does not continue the bytes that have arrived."""
    if headers.get("ETag") != etag:
        raise TransferFault("changed", "the file changed during the transfer")
    if not headers.get("Content-Range", "").strip().startswith(f"bytes {offset}-"):
        raise TransferFault("changed", "the server sent a different part than requested")
