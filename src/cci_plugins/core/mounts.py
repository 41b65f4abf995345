"""Files of this machine that are copied into each session before its first run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias
from weakref import WeakSet

from typing_extensions import TypeIs

from cci_plugins.common.file_names import validate_name
from cci_plugins.errors import ConfigurationError

from .session import Session


class FileMount(NamedTuple):
    """A file or folder of this machine, and its name in the session's working directory.

    Attributes:
        host_path: Path on this machine.
        mount_path: Name in the session. A leading `/mnt/data` is ignored.
    """

    host_path: str | Path
    mount_path: str


FileMountInput: TypeAlias = str | Path | tuple[str | Path, str] | FileMount


class Mounts:
    """Mounted files, and the sessions that have them.

    After a loss a session restores the files itself, as it does with every upload.

    Args:
        mounts: A path, a pair of a path and its name in the session, or a sequence of these.

    Raises:
        ConfigurationError: A path does not exist.
        UnsafeNameError: A name would leave the session's folder.
    """

    def __init__(self, mounts: FileMountInput | Sequence[FileMountInput] | None) -> None:
        self._files = dict(_iter_mounted_files(mounts))
        self._mounted_sessions: WeakSet[Session] = WeakSet()

    @property
    def names(self) -> list[str]:
        """The names of the files in a session."""
        return sorted(self._files)

    async def copy_into(self, session: Session) -> None:
        """Copy the files into a session that does not have them yet.

        Args:
            session: The session.

        Raises:
            FileTransferError: A file cannot be read, or it does not fit.
            PoolError: The pool failed.
        """
        if session in self._mounted_sessions:
            return
        for name, path in self._files.items():
            await session.files.upload(path, name=name)
        self._mounted_sessions.add(session)


def _iter_mounted_files(
    mounts: FileMountInput | Sequence[FileMountInput] | None,
) -> Iterator[tuple[str, Path]]:
    """Yield each file and its name in the session. Links in folders are skipped."""
    for host, mount_path in _iter_pairs(mounts):
        name = mount_path.removeprefix("/mnt/data").strip("/")
        if host.is_file():
            yield validate_name(name or host.name), host
        elif host.is_dir():
            for file in sorted(host.rglob("*")):
                if file.is_file() and not file.is_symlink():
                    relative_path = file.relative_to(host).as_posix()
                    yield validate_name(f"{name}/{relative_path}" if name else relative_path), file
        else:
            raise ConfigurationError(
                f"cannot mount '{host}': the file or folder does not exist",
                hint="pass the path of an existing file or folder",
            )


def _iter_pairs(
    mounts: FileMountInput | Sequence[FileMountInput] | None,
) -> Iterator[tuple[Path, str]]:
    if mounts is None:
        return
    if isinstance(mounts, str | Path):
        yield Path(mounts), Path(mounts).name
    elif _is_pair(mounts):
        yield Path(mounts[0]), mounts[1]
    else:
        for mount in mounts:
            yield from _iter_pairs(mount)  # anything that is not a pair is a sequence of mounts


def _is_pair(mounts: object) -> TypeIs[tuple[str | Path, str]]:
    return isinstance(mounts, tuple) and len(mounts) == len(FileMount._fields)
