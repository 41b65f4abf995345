"""Folders of this machine for files on their way."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from cci_plugins.errors import FileTransferError

from .shortages import find_hint


@contextmanager
def make_temporary_folder() -> Iterator[str]:
    """Provide a new folder, which is removed afterwards.

    Raises:
        FileTransferError: It cannot be made.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="cci-", ignore_cleanup_errors=True)
    except OSError as error:
        raise FileTransferError(
            f"cannot make a folder for files on their way: {error.strerror or error}",
            hint=find_hint(error),
        ) from error
    with folder as name:
        yield name
