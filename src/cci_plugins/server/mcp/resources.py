"""Files of a client's session as MCP resources, `sandbox:/mnt/data/...`.

The scheme is not `file:`, which clients would resolve on their own machine. In the stateless
revision of MCP a resource names its environment too, `sandbox://ENVIRONMENT/mnt/data/...`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import anyio

from cci_plugins.common.file_names import guess_media_type, validate_name
from cci_plugins.common.limits import MIB
from cci_plugins.common.temporary import make_temporary_folder
from cci_plugins.core.session import Session
from cci_plugins.errors import CodeInterpreterError, FileTooLargeError
from cci_plugins.models import FileInfo
from cci_plugins.redaction import redact
from cci_plugins.server.answers import sanitize_json

from .environments import EnvironmentIdError
from .sessions import McpSessions, is_stateless

PREFIX = "sandbox:/mnt/data/"
ENVIRONMENT_PREFIX = "sandbox://{environmentId}/mnt/data/"
_ENVIRONMENT_URI = re.compile(r"sandbox://(?P<environment>[^/]+)/mnt/data/(?P<name>.+)", re.DOTALL)
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
        files = await self._list_files(await self._mcp_sessions.get_current_session())
        return [to_resource(file) for file in files[:_MAX_LISTED]]

    async def read(self, uri: str) -> dict[str, Any]:
        """Return the content of a file in the form of `resources/read`: text, or else base64.

        Args:
            uri: The resource, as `list_resources` names it.

        Raises:
            ResourceError: The file does not exist, or it is too large.
        """
        session, name = await self._resolve(uri)
        file = _find(await self._list_files(session), name)
        if file is None:
            raise ResourceError(f"the session has no file {uri[:300]}")
        name = file.name
        if file.size > self._max_bytes:
            raise self._build_too_large_error(file.size)
        kind = guess_media_type(name)
        content = await self._download(session, name)
        fields = {"uri": uri, "mimeType": kind}
        if kind.startswith("text/") or kind in _TEXT_TYPES:
            try:
                return fields | {"text": content.decode()}
            except UnicodeDecodeError:
                pass
        return fields | {"blob": b64encode(content).decode()}

    async def _resolve(self, uri: str) -> tuple[Session | None, str]:
        """Return the session and the name of the file that a URI stands for."""
        match = _ENVIRONMENT_URI.fullmatch(uri)
        if match is None or not is_stateless.get():
            return await self._mcp_sessions.get_current_session(), _parse_name(uri)
        name = _parse_name(PREFIX + match["name"])
        try:
            return self._mcp_sessions.get_environment(unquote(match["environment"])), name
        except EnvironmentIdError as error:
            raise ResourceError(f"{error.code}: {error}") from None

    async def _list_files(self, session: Session | None) -> list[FileInfo]:
        if session is None or not self._mcp_sessions.was_used(session):
            return []  # listing its files would start the session
        pool = await self._mcp_sessions.host.get_pool()
        try:
            return await pool.list_files(session.id)
        except CodeInterpreterError as error:
            raise ResourceError(f"the session's files cannot be listed: {error}") from error

    async def _download(self, session: Session | None, name: str) -> bytes:
        if session is None:
            raise ResourceError("the request does not belong to an MCP session")
        file_transfer = await self._mcp_sessions.host.get_file_transfer()
        with make_temporary_folder() as folder:
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


def to_resource(file: FileInfo, environment_id: str | None = None) -> dict[str, Any]:
    """Return a file in the form of a resource, without secrets in its name and address.

    Args:
        file: The file.
        environment_id: Its environment, for clients of the stateless revision.
    """
    name = redact(sanitize_json(file.name))
    prefix = PREFIX
    if environment_id is not None:
        prefix = ENVIRONMENT_PREFIX.format(environmentId=quote(environment_id, safe=""))
    return {
        "uri": prefix + quote(name),
        "name": name,
        "mimeType": guess_media_type(file.name),
        "size": file.size,
    }


def to_resource_link(file: FileInfo, environment_id: str | None = None) -> dict[str, Any]:
    """Return a file as a block of an answer that links its resource."""
    return {"type": "resource_link"} | to_resource(file, environment_id)


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
