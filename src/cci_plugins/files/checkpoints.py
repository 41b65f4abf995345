"""Checkpoints: saved copies of a session's files and history, and their manifest.

A checkpoint has one member for each file, the history as `notebook.ipynb`, and `manifest.json`.
A store keeps it: `FolderCheckpoints` or `BlobCheckpoints`.

Invariants:

* Members have numbered names. The names of a session's files stand in the manifest only, so no
  name can lead outside the checkpoint or mean something else to this machine.
* A checkpoint appears whole or not at all. Its name is random, so two writers never share one.
* A manifest is untrusted when it is read. `parse_manifest` checks every name, size and hash, and
  each member is copied and compared before a session is touched.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from cci_plugins.common.file_names import guess_media_type, is_safe_name
from cci_plugins.common.limits import MIB
from cci_plugins.errors import CheckpointError
from cci_plugins.models import FileInfo

from .source import MAX_FOLDER_FILES

if TYPE_CHECKING:
    from .blob import BlobStorage

FORMAT = 1
MANIFEST = "manifest.json"
NOTEBOOK = "notebook.ipynb"
MAX_MANIFEST_BYTES = 32 * MIB
MAX_NOTEBOOK_BYTES = 128 * MIB  # a notebook's 16 Mi characters, indented and as UTF-8
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"(?P<created>\d{8}T\d{6}Z)(-(?P<days>\d{1,5})d)?-[0-9a-f]{16}")
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved copy of a session's files and history, as `Session.save` returns it.

    Attributes:
        name: Its name in its folder or container. It begins with the time, and has the days of
            retention.
        location: Path or URL of the checkpoint. The URL has no signature.
        created_at: When it was saved.
        expires_at: When its storage deletes it, or None.
        files: Its files, by name.
        skipped: Files of the session that could not be saved, because their names are not safe.

    Example:
        ```python
        checkpoint = await interpreter.session("alice").save(to="checkpoints")
        await interpreter.session("bob").restore(checkpoint)
        ```
    """

    name: str
    location: str
    created_at: datetime
    expires_at: datetime | None = None
    files: tuple[FileInfo, ...] = ()
    skipped: tuple[str, ...] = ()
    storage: BlobStorage | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a checkpoint.

    Attributes:
        created_at: When it was saved.
        expires_at: When its storage deletes it, or None.
        notebook: Size and hash of the notebook.
        files: Its files, each with size and hash.
        skipped: Names of files that were not saved.
    """

    created_at: datetime
    expires_at: datetime | None
    notebook: FileInfo
    files: tuple[FileInfo, ...]
    skipped: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the text of `manifest.json`."""
        content = {
            "format": FORMAT,
            "version": version("cci-plugins"),
            "created_at": self.created_at.isoformat(),
            "expires_at": self.expires_at and self.expires_at.isoformat(),
            "notebook": {"size": self.notebook.size, "sha256": self.notebook.sha256},
            "files": [
                {"name": info.name, "size": info.size, "sha256": info.sha256} for info in self.files
            ],
            "skipped": list(self.skipped),
        }
        return json.dumps(content, indent=1)

    def members(self) -> list[tuple[str, FileInfo]]:
        """Return the names of the members in the store, with their size and hash."""
        numbered = [(build_member_name(index), info) for index, info in enumerate(self.files)]
        return [*numbered, (NOTEBOOK, self.notebook)]


class CheckpointStore(ABC):
    """A place that keeps checkpoints.

    Attributes:
        retention: How long it keeps one, or None for ever.
        storage: Its container, or None.
    """

    retention: timedelta | None = None
    storage: BlobStorage | None = None

    @abstractmethod
    def draft(self) -> AbstractAsyncContextManager[Path]:
        """Return a context with a folder for the members, which is removed at its end."""

    @abstractmethod
    async def publish(self, draft: Path, name: str, manifest: Manifest) -> Checkpoint:
        """Make the members of a draft appear as a checkpoint, whole or not at all.

        Raises:
            FileTransferError: The checkpoint could not be written.
        """

    @abstractmethod
    async def read(self, name: str, member: str, target: Path, info: FileInfo | None) -> None:
        """Copy a member into a new file of this machine.

        Args:
            name: The checkpoint.
            member: The member.
            target: The new file.
            info: The size and hash that it must have. None for the manifest.

        Raises:
            CheckpointError: It is missing, or differs.
        """


def get_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def create_name(created_at: datetime, retention: timedelta | None) -> str:
    """Create a new checkpoint's name, which has its time and its days of retention."""
    days = "" if retention is None else f"-{retention.days}d"
    return f"{created_at.strftime(_TIME)}{days}-{token_hex(8)}"


def check_name(name: str) -> str:
    """Return the name of a checkpoint unchanged, if it can be one.

    Raises:
        CheckpointError: It cannot be one.
    """
    if _NAME.fullmatch(name) is None:
        raise CheckpointError(
            f"{name[:200]!r} is not the name of a checkpoint",
            hint="pass what Session.save returned, or its name",
        )
    return name


def parse_expiry(name: str) -> tuple[datetime, datetime] | None:
    """Return when a checkpoint was saved and when it expires, by its name. None if it never does.

    Args:
        name: The name of a checkpoint.
    """
    match = _NAME.fullmatch(name)
    if match is None or match["days"] is None:
        return None
    try:
        created = datetime.strptime(match["created"], _TIME).replace(tzinfo=UTC)
        return created, created + timedelta(days=int(match["days"]))
    except (ValueError, OverflowError):
        return None


def build_missing_error(name: str, place: str) -> CheckpointError:
    """Build the error for a checkpoint or a member that is missing. It names an expiry.

    Args:
        name: The checkpoint.
        place: The folder or container.
    """
    times = parse_expiry(name)
    if times is not None and times[1] <= get_now():
        return CheckpointError(
            f"the checkpoint {name!r} has expired: it was saved on {times[0]:%Y-%m-%d}, and its "
            f"storage kept it until {times[1]:%Y-%m-%d}",
            hint="save again, or provision a longer retention",
        )
    return CheckpointError(
        f"the checkpoint {name!r} is missing or incomplete in {place}",
        hint="pass what Session.save returned",
    )


def build_changed_error(name: str, what: str) -> CheckpointError:
    """Build the error for a checkpoint that is not as it was saved.

    Args:
        name: The checkpoint.
        what: What differs.
    """
    return CheckpointError(
        f"the checkpoint {name!r} is damaged: {what}",
        hint="restore another checkpoint; the session is unchanged",
    )


def build_member_name(index: int) -> str:
    """Return the name of a file's member."""
    return f"file-{index:06}"


def parse_manifest(name: str, text: str) -> Manifest:
    """Read a manifest that may have been changed.

    Args:
        name: The checkpoint, for the error.
        text: The text of `manifest.json`.

    Raises:
        CheckpointError: It is not a manifest, or one of a newer version.
    """
    try:
        content = json.loads(text)
        _check_format(name, content["format"])
        expires_at = content["expires_at"]
        return Manifest(
            _parse_time(content["created_at"]),
            None if expires_at is None else _parse_time(expires_at),
            _parse_info(NOTEBOOK, content["notebook"]),
            _parse_files(content["files"]),
            tuple(_check_text(one) for one in content["skipped"]),
        )
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise build_changed_error(name, f"{MANIFEST} is invalid") from error


def _check_format(name: str, value: object) -> None:
    if value != FORMAT:
        raise CheckpointError(
            f"the checkpoint {name!r} has format {value!r:.20}, not {FORMAT}",
            hint="install the version of cci-plugins that saved it",
        )


def _parse_files(rows: Sequence[Mapping[str, Any]]) -> tuple[FileInfo, ...]:
    if not isinstance(rows, list) or len(rows) > MAX_FOLDER_FILES:
        raise ValueError("the files are not a list, or too many")
    files = tuple(_parse_info(row["name"], row) for row in rows)
    names = {info.name for info in files}
    if len(names) != len(files) or not all(map(is_safe_name, names)):
        raise ValueError("a name is not safe, or used twice")
    return files


def _parse_info(name: str, row: Mapping[str, Any]) -> FileInfo:
    size, digest = row["size"], row["sha256"]
    if type(size) is not int or size < 0 or not _DIGEST.fullmatch(digest):
        raise ValueError("an invalid size or hash")
    return FileInfo(_check_text(name), size, guess_media_type(name), None, digest)


def _parse_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    return time


def _check_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
