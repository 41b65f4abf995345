"""Copies of a folder of the user in every session of an MCP client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

import anyio.to_thread

from cci_plugins.common.file_names import validate_name
from cci_plugins.core.session import Session
from cci_plugins.errors import ConfigurationError, UnsafeNameError

MAX_FILES = 1_000
MAX_BYTES = 256 * 1024 * 1024
_MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class MountedFile:
    """A file of the folder.

    Attributes:
        path: Its path on this machine.
        name: Its name in the session, relative to the folder.
        size: Its size in bytes when the folder was read.
    """

    path: Path
    name: str
    size: int


class MountedFolder:
    """A folder that the user named, whose files are copied into each session.

    The code gets copies, so it cannot change the folder. Links that lead out of the folder are
    left out, as are hidden files.

    Args:
        folder: The folder.
        with_hidden: Copy hidden files too, such as `.env`.

    Raises:
        ConfigurationError: It is not a folder, or has too many or too large files.
    """

    def __init__(self, folder: Path, *, with_hidden: bool = False) -> None:
        self._root = folder
        self._with_hidden = with_hidden
        self._filled: WeakSet[Session] = WeakSet()
        self.files = self._read()

    @property
    def size(self) -> int:
        """The size of all files together, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def description(self) -> str:
        """A sentence for the model that names the files."""
        names = ", ".join(file.name for file in self.files[:_MAX_LISTED])
        more = len(self.files) - _MAX_LISTED
        rest = f" and {more} more" if more > 0 else ""
        return f"The user's files are in the working directory, as copies: {names}{rest}."

    async def copy_into(self, session: Session) -> None:
        """Copy the files into a session, once. They are read again for each session.

        Args:
            session: The session.

        Raises:
            CodeInterpreterError: A file did not arrive. The next call tries again.
        """
        if session in self._filled:
            return
        for file in await anyio.to_thread.run_sync(self._read):
            await session.files.upload(file.path, name=file.name)
        self._filled.add(session)

    def _read(self) -> list[MountedFile]:
        """Return the files, in order of their names."""
        root = self._root.resolve()
        if not root.is_dir():
            raise ConfigurationError(
                f"{self._root} is not a folder", hint="name a folder whose files the code may read"
            )
        files: list[MountedFile] = []
        size = 0
        for file in self._walk(root):
            files.append(file)
            size += file.size
            if len(files) > MAX_FILES or size > MAX_BYTES:
                raise ConfigurationError(
                    f"{self._root} has more than {MAX_FILES:,} files or "
                    f"{MAX_BYTES // 1024 // 1024} MiB",
                    hint="name a smaller folder. Every session gets a copy",
                )
        return sorted(files, key=lambda file: file.name)

    def _walk(self, root: Path) -> Iterator[MountedFile]:
        for parent, folders, names in os.walk(root):  # it follows no links to folders
            folders[:] = [name for name in folders if self._is_wanted(name)]
            for name in filter(self._is_wanted, names):
                file = _describe(Path(parent, name), root)
                if file is not None:
                    yield file

    def _is_wanted(self, name: str) -> bool:
        return self._with_hidden or not name.startswith(".")


def _describe(path: Path, root: Path) -> MountedFile | None:
    """Return a file, or None for one that is not regular, leads out, or has an unusable name."""
    try:
        target = path.resolve()
        if not target.is_relative_to(root) or not target.is_file():
            return None
        name = validate_name(path.relative_to(root).as_posix())
        return MountedFile(target, name, target.stat().st_size)
    except (OSError, UnsafeNameError, RuntimeError):  # RuntimeError: links in a circle
        return None
