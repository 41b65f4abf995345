"""Restart of a session whose pool cannot do it itself: its files move into a new session.

All files are on this machine before the session ends, so a file that cannot move changes nothing.
"""

from __future__ import annotations

from pathlib import Path

import anyio

from cci_plugins.common.temporary import make_temporary_folder
from cci_plugins.errors import CodeInterpreterError, FileTransferError
from cci_plugins.files.file_transfer import FileTransfer
from cci_plugins.files.source import PathSource

from .session_handle import SessionHandle, ignore_progress


async def restart_with_files(handle: SessionHandle) -> None:
    """End a session, and begin a new one that has its files.

    Raises:
        FileTransferError: A file cannot move, so the session is as it was. Or the new session
            lacks files, which the message names.
    """
    pool = await handle.host.get_pool()
    transfer = await handle.host.get_file_transfer()
    files = await pool.list_files(handle.id)
    for file in files:
        await transfer.check_size(handle.id, file.size)
    with make_temporary_folder() as folder:
        paths = {file.name: Path(folder, str(number)) for number, file in enumerate(files)}
        for name, path in paths.items():
            await transfer.download(handle.id, name, path, ignore_progress)
        missing: list[str] = []
        with anyio.CancelScope(shield=True):  # the files soon exist here only
            await pool.delete_session(handle.id)
            missing = [
                name
                for name, path in paths.items()
                if not await _upload(transfer, handle.id, name, path)
            ]
    if missing:
        raise FileTransferError(
            f"the session restarted, but some of its files are gone: {', '.join(missing)[:500]}",
            hint="create or upload them again",
        )


async def _upload(transfer: FileTransfer, session_id: str, name: str, path: Path) -> bool:
    source = await anyio.to_thread.run_sync(PathSource, path)
    try:
        await transfer.upload(session_id, name, source, ignore_progress)
    except CodeInterpreterError:
        return False
    return True
