"""Save and restore, as every session has it.

`Session` inherits from `SavableSession`. What moves the files is in `session_checkpoints`, and what
runs cells again in `session_replay`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.durations import Duration, to_timedelta
from cci_plugins.common.log import describe_error, logger
from cci_plugins.errors import CodeInterpreterError, ConfigurationError, SessionLostError
from cci_plugins.files.checkpoints import Checkpoint, CheckpointStore
from cci_plugins.in_session.script_comment import remove_script
from cci_plugins.models import Execution
from cci_plugins.redaction import redact

from .notebook import Notebook
from .session_checkpoints import (
    SavedSession,
    SaveTarget,
    build_restored_note,
    open_store,
    put_files_back,
    read_checkpoint,
    restore_files,
    save_session,
    shorten_names,
)
from .session_handle import SessionHandle
from .session_replay import CellName, ReplayCell, choose_cells, replay_cells
from .workspace import Workspace, create_workspace

if TYPE_CHECKING:
    from cci_plugins.files.blob import BlobStorage

_END_SECONDS = 30
REPLACED_NOTE = "the pool replaced the session; variables and files of earlier calls are gone"
RESTARTED_NOTE = "the session was restarted; variables of earlier calls are gone, files are kept"


class SavableSession(ABC):
    """A session whose files and history can be saved and restored."""

    _handle: SessionHandle
    _notebook: Notebook
    _notes: list[str]
    _has_lost_uploads: bool
    _loss_note: str | None
    _ends: int
    _workspace: Workspace | None = None

    @abstractmethod
    def notebook(self) -> str:
        """Return the session's history as a Jupyter notebook, in nbformat 4 JSON."""

    @abstractmethod
    def _exclusive(self) -> AbstractAsyncContextManager[None]: ...

    @abstractmethod
    async def _restore_uploads(self) -> None: ...

    async def save(
        self, to: SaveTarget | BlobStorage | None = None, *, retention: Duration | None = None
    ) -> Checkpoint:
        """Save the session's files and its history, whole or not at all.

        Variables are not saved. A run in progress ends first.

        Args:
            to: A folder, or a container for checkpoints. The checkpoint gets a folder or prefix of
                its own. None means `FileOptions.checkpoints`.
            retention: When the container's lifecycle rule deletes it, in whole days. The account's
                rule decides, and this records it. None means 30 days, and no end in a folder.

        Raises:
            ConfigurationError: It is the container that files are staged in, or none is
                configured.
            SessionLostError: The pool replaced the session, so its files are gone.
            FileTooLargeError: A file is larger than every route takes, or all are too large
                together: more than 10,000, or more bytes than `Limits.staged_bytes`.
            FileTransferError: A file did not arrive, or the checkpoint could not be written.
        """
        kept = None if retention is None else to_timedelta(retention, "retention")
        store = open_store(to, self._handle.host.files, kept)
        return await self._handle.host.dispatch(self._save, store)

    async def restore(
        self,
        checkpoint: Checkpoint | SaveTarget,
        *,
        storage: BlobStorage | None = None,
        replay: Sequence[CellName] = (),
    ) -> None:
        """Put the files of a checkpoint into this session, and its history, whole or not at all.

        Every size and hash is compared first. A file of the same name is replaced, and other files
        stay. The history of the checkpoint replaces the session's own. Variables do not come
        back. The next run's notes tell a model so.

        Args:
            checkpoint: What `save` returned, its `location`, or its name in `storage`.
            storage: The container of a URL or name. None means `FileOptions.checkpoints`.
            replay: Runs of the history to run again, by number, so that their variables come
                back. It needs a session that was not used. No host tool is available, and the
                files are as in the checkpoint afterwards.

        Raises:
            CheckpointError: It is missing, expired or damaged, or a replayed run failed.
            ConfigurationError: A run cannot be replayed, or the session was used.
            FileTooLargeError: It is larger than the limits of this interpreter.
            FileTransferError: A file did not arrive. The session has the files it had before.
        """
        await self._handle.host.dispatch(self._restore, checkpoint, storage, tuple(replay))

    async def _save(self, store: CheckpointStore) -> Checkpoint:
        async with self._exclusive_unless_deleted():
            await self._handle.begin()
            if await self._note_replacement() and self._workspace is None:
                raise SessionLostError(
                    "the pool replaced the session, so the files of its code are gone",
                    hint="restore an earlier checkpoint, or run the earlier steps again",
                )
            notebook = await anyio.to_thread.run_sync(self.notebook)
            return await save_session(self._handle, notebook, store)

    async def _restore(
        self,
        checkpoint: Checkpoint | SaveTarget,
        storage: BlobStorage | None,
        replay: Sequence[CellName],
    ) -> None:
        if replay and self._handle.was_used:
            raise ConfigurationError(
                "a replay needs a session that was not used",
                hint="restore into a session of another key, or delete this one first",
            )
        async with (
            self._exclusive_unless_deleted(),
            read_checkpoint(checkpoint, self._handle, storage) as saved,
        ):
            await self._handle.begin()
            await self._note_replacement()
            cells = choose_cells(saved.notebook, replay)
            await self._handle.note_instance()
            await restore_files(self._handle, saved)
            if cells:
                await self._replay(cells, saved)
            await run_to_end(self._replace_history(saved, cells))

    async def _replace_history(self, saved: SavedSession, cells: Sequence[ReplayCell]) -> None:
        await anyio.to_thread.run_sync(self._notebook.replace, saved.notebook)
        self._notes.append(redact(build_restored_note(saved, cells)))

    async def _replay(self, cells: Sequence[ReplayCell], saved: SavedSession) -> None:
        """Run cells in a new session, then put the files back. End the session if it fails."""
        host = self._handle.host
        pool = await host.get_pool()
        try:
            limit = host.limits.execution_timeout
            self._handle.instance = await replay_cells(pool, self._handle.id, cells, limit)
            await put_files_back(self._handle, saved)
        except BaseException:
            self._handle.instance = None
            self._handle.forget_uploads()
            with anyio.CancelScope(shield=True), anyio.move_on_after(_END_SECONDS):
                await pool.delete_session(self._handle.id)
                host.note_end(self._handle.id)
                self._handle.was_used = False
            raise

    async def _open_workspace(self) -> None:
        """Have the next run send the files that the workspace kept, once in this process."""
        place = self._handle.host.workspace
        if place is not None and self._workspace is None:
            workspace = await anyio.to_thread.run_sync(create_workspace, place, self._handle.key)
            if await workspace.open(self._handle):
                self._has_lost_uploads = True
            self._workspace = workspace
            if workspace.missing:
                names = shorten_names(sorted(workspace.missing))
                self._notes.append(redact(f"the workspace has lost files: {names}"))
        if self._workspace is not None:
            self._workspace.begin_run()

    async def _keep_files(self, execution: Execution) -> Execution:
        """Keep the changed files in the workspace. Return the execution with a note about others.

        The code has run, so a failure is a note, too.
        """
        if self._workspace is None or self._has_lost_uploads or execution.status == "died":
            return execution
        try:
            skipped = await self._workspace.keep(self._handle, execution)
        except CodeInterpreterError as error:
            logger.warning("the workspace did not keep the files: %s", describe_error(error))
            note = "the files of this run could not be kept outside the session"
        else:
            if not skipped:
                return execution
            note = f"not kept outside the session: {shorten_names(sorted(skipped))}"
        return replace(execution, notes=(*execution.notes, note))

    def _add_to_history(self, code: str, execution: Execution) -> None:
        source = remove_script(code)
        clean = redact(source)
        self._notebook.add(clean, execution, is_redacted=clean != source)

    async def _note_replacement(self) -> bool:
        """Return whether the pool replaced the session, and restore its uploads then."""
        if self._has_lost_uploads:
            await self._restore_uploads()
        if self._handle.instance is None:
            return False
        pool, limits = await self._handle.host.get_pool(), self._handle.host.limits
        try:
            await pool.execute(
                self._handle.id,
                "",
                timeout=limits.execution_timeout,
                instance=self._handle.instance,
            )
        except SessionLostError as lost:
            if not lost.retryable:
                raise
            await self._restore_replaced(REPLACED_NOTE)
            return True
        return False

    async def _restore_replaced(self, loss_note: str) -> None:
        """Restore the uploads of a session that the pool replaced, for the next run's notes."""
        self._handle.instance, self._loss_note = None, loss_note
        # the note that files are kept no longer holds
        self._notes[:] = [note for note in self._notes if note != RESTARTED_NOTE]
        await self._restore_uploads()

    @asynccontextmanager
    async def _exclusive_unless_deleted(self) -> AsyncIterator[None]:
        """Wait as `_exclusive` does, and refuse a call whose session was deleted meanwhile."""
        ends = self._ends
        async with self._exclusive():
            if self._ends != ends:
                raise SessionLostError(
                    "the session was deleted while this call waited for it",
                    hint="run the earlier steps again",
                    retryable=True,
                )
            yield
