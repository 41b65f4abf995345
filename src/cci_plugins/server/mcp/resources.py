"""Files of a client's session as MCP resources, `sandbox:/mnt/data/...`.

The scheme is not `file:`, which clients would resolve on their own machine.
"""

from __future__ import annotations

import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import anyio

from cci_plugins.common.file_names import guess_media_type, validate_name
from cci_plugins.common.limits import MIB
from cci_plugins.errors import CodeInterpreterError, FileTooLargeError
from cci_plugins.models import FileInfo
from cci_plugins.redaction import redact
from cci_plugins.server.answers import sanitize_json

from .sessions import McpSessions

PREFIX = "sandbox:/mnt/data/"
MAX_FILE_BYTES = 8 * MIB
_TEXT_TYPES = ("application/json", "application/xml", "application/javascript", "image/svg+xml")
_MAX_LISTED = 1000


class ResourceError(Exception):
    """A resource that does not exist or cannot be read. The client sees the message."""


class FileResources:
    """Files of the session that a request belongs to.

    Args:
        mcp_sessions: Maps each MCP session to a session of the pool.
        max_bytes: Largest file that is read, since an answer is one message in memory.
    """

    def __init__(self, mcp_sessions: McpSessions, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self._mcp_sessions = mcp_sessions
        self._max_bytes = max_bytes

    async def list_resources(self) -> list[dict[str, Any]]:
        """Return the files in the form of `resources/list`, none before the first run.

        Raises:
            ResourceError: The pool cannot list the files.
        """
        return [to_resource(file) for file in (await self._list_files())[:_MAX_LISTED]]

    async def read(self, uri: str) -> dict[str, Any]:
        """Return the content of a file in the form of `resources/read`: text, or else base64.

        Args:
            uri: The resource, as `list_resources` names it.

        Raises:
            ResourceError: The file does not exist, or it is too large.
        """
        name = _parse_name(uri)
        file = _find(await self._list_files(), name)
        if file is None:
            raise ResourceError(f"the session has no file {uri[:300]}")
        name = file.name
        if file.size > self._max_bytes:
            raise self._build_too_large_error(file.size)
        kind = guess_media_type(name)
        content = await self._download(name)
        fields = {"uri": uri, "mimeType": kind}
        if kind.startswith("text/") or kind in _TEXT_TYPES:
            try:
                return fields | {"text": content.decode()}
            except UnicodeDecodeError:
                pass
        return fields | {"blob": b64encode(content).decode()}

    async def _list_files(self) -> list[FileInfo]:
        session = await self._mcp_sessions.get_current_session()
        if session is None or not self._mcp_sessions.was_used(session):
            return []  # listing its files would start the session
        pool = await self._mcp_sessions.host.get_pool()
        try:
            return await pool.list_files(session.id)
        except CodeInterpreterError as error:
            raise ResourceError(f"the session's files cannot be listed: {error}") from error

    async def _download(self, name: str) -> bytes:
        session = await self._mcp_sessions.get_current_session()
        if session is None:
            raise ResourceError("the request does not belong to an MCP session")
        file_transfer = await self._mcp_sessions.host.get_file_transfer()
        with tempfile.TemporaryDirectory(prefix="cci-") as folder:
            path = Path(folder, "content")
            try:
                await file_transfer.download(session.id, name, path, self._check_size)
            except CodeInterpreterError as error:
                raise ResourceError(str(error)) from error
            return await anyio.to_thread.run_sync(path.read_bytes)

    def _check_size(self, done: int) -> None:
        if done > self._max_bytes:  # the file grew after it was listed
            raise FileTooLargeError(
                str(self._build_too_large_error(done)), size=done, limit=self._max_bytes
            )

    def _build_too_large_error(self, size: int) -> ResourceError:
        return ResourceError(
            f"the file has {size:,} bytes, but a resource has at most {self._max_bytes:,}"
        )


def to_resource(file: FileInfo) -> dict[str, Any]:
    """Return a file in the form of a resource, without secrets in its name and address."""
    name = redact(sanitize_json(file.name))
    return {
        "uri": PREFIX + quote(name),
        "name": name,
        "mimeType": guess_media_type(file.name),
        "size": file.size,
    }


def to_resource_link(file: FileInfo) -> dict[str, Any]:
    """Return a file as a block of an answer that links its resource."""
    return {"type": "resource_link"} | to_resource(file)


def _find(files: list[FileInfo], name: str) -> FileInfo | None:
    """Return the file with a name, or the first that is listed with it because of a secret."""
    for file in files:
        if file.name == name:
            return file
    return next((file for file in files if redact(sanitize_json(file.name)) == name), None)


def _parse_name(uri: str) -> str:
    try:
        if not uri.startswith(PREFIX):
            raise ResourceError(f"unknown resource {uri[:300]}: resources begin with {PREFIX}")
        return validate_name(unquote(uri.removeprefix(PREFIX), errors="strict"))
    except (CodeInterpreterError, UnicodeDecodeError):
        raise ResourceError(f"{uri[:300]} is not the name of a file in the session") from None
