"""Shared memory without a file, which a session's sandbox refuses.

No limit counts such memory once it is not mapped any longer. So `mmap.mmap(-1, ...)` maps a file
in the session's temporary folder, which counts. The file has no name, and is freed with its last
mapping.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import tempfile
from typing import Any


def map_shared_memory_by_files() -> None:
    """Replace `mmap.mmap` where a shared mapping without a file is refused."""
    if sys.platform != "linux":
        return
    try:
        mmap.mmap(-1, 1).close()
    except PermissionError:
        mmap.mmap = _build_map_class(mmap.mmap)  # type: ignore[misc]


def _build_map_class(base: Any) -> Any:
    def create(  # noqa: PLR0917 - those of mmap.mmap
        cls: Any,
        fileno: int,
        length: int,
        flags: int = mmap.MAP_SHARED,
        prot: int = mmap.PROT_READ | mmap.PROT_WRITE,
        access: int = mmap.ACCESS_DEFAULT,
        offset: int = 0,
        **others: Any,
    ) -> Any:
        is_shared = bool(flags & mmap.MAP_SHARED) and access != mmap.ACCESS_COPY
        if fileno != -1 or not is_shared or length <= 0:
            return base.__new__(cls, fileno, length, flags, prot, access, offset, **others)
        with tempfile.TemporaryFile(buffering=0) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, length)  # a full disk would end the process
            except OSError as error:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
            flags &= ~mmap.MAP_ANONYMOUS
            return base.__new__(cls, file.fileno(), length, flags, prot, access, **others)

    members = {"__module__": "mmap", "__doc__": base.__doc__, "__new__": create}
    return type("mmap", (base,), members)
