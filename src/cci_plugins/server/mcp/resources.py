"""The files of a client's session as MCP resources, `sandbox:/mnt/data/...`.

The scheme is not `file:`, which clients take for a path on their own machine.
"""

from __future__ import annotations

import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import anyio

from cci_plugins.common.file_names import media_type, safe_name
from cci_plugins.common.limits import MIB
from cci_plugins.errors import CodeInterpreterError, FileTooLargeError
from cci_plugins.models import FileInfo
from cci_plugins.server.answers import carried

from .sessions import Conversations

PREFIX = "sandbox:/mnt/data/"
LARGEST = 8 * MIB
_TEXTS = ("application/json", "application/xml", "application/javascript", "image/svg+xml")
_MOST_LISTED = 1000


class ResourceError(Exception):
    """A resource that is not there or cannot be read; the text is for the client."""


class Resources:
    """Lists and reads the files of the session that a request belongs to.

    Args:
        conversations: The session of each MCP session.
        largest: Bytes of the largest file that is read: an answer is one message in memory.
    """

    def __init__(self, conversations: Conversations, *, largest: int = LARGEST) -> None:
        self._conversations = conversations
        self._largest = largest

    async def listed(self) -> list[dict[str, Any]]:
        """The files as `resources/list` tells them; none before the first run.

        Raises:
            ResourceError: The pool cannot tell.
        """
        return [described(file) for file in (await self._files())[:_MOST_LISTED]]

    async def read(self, uri: str) -> dict[str, Any]:
        """The content of a file as `resources/read` tells it: text, or else base64.

        Raises:
            ResourceError: There is no such file, or it is too large.
        """
        name = _name(uri)
        found = [file for file in await self._files() if file.name == name]
        if not found:
            raise ResourceError(f"the session has no file {uri[:300]}")
        if found[0].size > self._largest:
            raise self._too_large(found[0].size)
        kind = media_type(name)
        content = await self._content(name)
        told = {"uri": uri, "mimeType": kind}
        if kind.startswith("text/") or kind in _TEXTS:
            try:
                return told | {"text": content.decode()}
            except UnicodeDecodeError:
                pass
        return told | {"blob": b64encode(content).decode()}

    async def _files(self) -> list[FileInfo]:
        session = await self._conversations.current()
        if session is None or not session.used:
            return []  # asking the pool would start a session
        pool = await self._conversations.pool()
        try:
            return await pool.list_files(session.id)
        except CodeInterpreterError as error:
            raise ResourceError(f"the session's files cannot be listed: {error}") from error

    async def _content(self, name: str) -> bytes:
        session = await self._conversations.current()
        if session is None:
            raise ResourceError("this request belongs to no MCP session")
        bridge = await self._conversations.bridge()
        with tempfile.TemporaryDirectory(prefix="cci-") as folder:
            path = Path(folder, "content")
            try:
                await bridge.download(session.id, name, path, self._bounded)
            except CodeInterpreterError as error:
                raise ResourceError(str(error)) from error
            return await anyio.to_thread.run_sync(path.read_bytes)

    def _bounded(self, done: int) -> None:
        if done > self._largest:  # it grew since it was listed
            raise FileTooLargeError(str(self._too_large(done)), size=done, limit=self._largest)

    def _too_large(self, size: int) -> ResourceError:
        return ResourceError(
            f"the file has {size:,} bytes; a resource has at most {self._largest:,}"
        )


def described(file: FileInfo) -> dict[str, Any]:
    """A file as a resource."""
    name = carried(file.name)
    return {
        "uri": PREFIX + quote(name),
        "name": name,
        "mimeType": media_type(file.name),
        "size": file.size,
    }


def link(file: FileInfo) -> dict[str, Any]:
    """A file as a part of an answer, to be read as a resource."""
    return {"type": "resource_link"} | described(file)


def _name(uri: str) -> str:
    try:
        if not uri.startswith(PREFIX):
            raise ResourceError(f"resources begin with {PREFIX}")
        return safe_name(unquote(uri.removeprefix(PREFIX), errors="strict"))
    except (CodeInterpreterError, UnicodeDecodeError):
        raise ResourceError("that is not the name of a file in the session") from None
