"""The same API without `await`. Calls block while the package's own event loop runs them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, overload

from cci_plugins.common.temporary import make_temporary_folder

from .common import event_loop
from .common.approval import Approver
from .common.durations import Duration
from .common.environment import Env
from .common.limits import Limits
from .common.urls import SecretUrl
from .core import background_run as _background_run
from .core import interpreter as _interpreter
from .core import session as _session
from .core import session_files as _session_files
from .core.background_run import BackgroundOutput, BackgroundStatus
from .core.conversation import SessionKey
from .core.host_tools import HostTool, ToolApprover
from .core.interpreter import BlockingInterpreter, WrongWithError
from .core.session_checkpoints import SaveTarget
from .core.session_files import DEFAULT_SHARE_DURATION
from .core.session_replay import CellName
from .files.checkpoints import Checkpoint
from .files.file_transfer import FileOptions, ProgressHandler
from .files.source import CHUNK, Uploadable
from .models import Execution, FileInfo, OutputEvent, SharedFile
from .pools.base import Capabilities, OutputHandler, SessionPool

if TYPE_CHECKING:
    from .azure.credentials import TokenCredential
    from .files.blob import BlobStorage
    from .pools.local.egress import Egress

__all__ = ["BackgroundRun", "CodeInterpreter", "Session", "SessionFiles"]


class SessionFiles:
    """The blocking form of `cci_plugins.core.session_files.SessionFiles`, with the same methods."""

    def __init__(self, files: _session_files.SessionFiles) -> None:
        self._files = files

    def upload(
        self,
        source: Uploadable,
        *,
        name: str | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> FileInfo:
        """Write a file into the session. `on_progress` is called in another thread."""
        return event_loop.run_blocking(
            lambda: self._files.upload(source, name=name, on_progress=on_progress)
        )

    def fetch(
        self,
        url: str | SecretUrl,
        *,
        name: str | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> FileInfo:
        """Have the session fetch a URL of yours. Never pass one that a model wrote."""
        return event_loop.run_blocking(
            lambda: self._files.fetch(url, name=name, on_progress=on_progress)
        )

    @overload
    def download(
        self, name: str, *, overwrite: bool = ..., on_progress: ProgressHandler | None = ...
    ) -> bytes: ...

    @overload
    def download(
        self,
        name: str,
        *,
        to: str | PathLike[str],
        overwrite: bool = ...,
        on_progress: ProgressHandler | None = ...,
    ) -> Path: ...

    def download(
        self,
        name: str,
        *,
        to: str | PathLike[str] | None = None,
        overwrite: bool = False,
        on_progress: ProgressHandler | None = None,
    ) -> bytes | Path:
        """Read a file out of the session. Return its bytes, or with `to` the written path."""
        if to is None:
            return event_loop.run_blocking(
                lambda: self._files.download(name, on_progress=on_progress)
            )
        return event_loop.run_blocking(
            lambda: self._files.download(name, to=to, overwrite=overwrite, on_progress=on_progress)
        )

    def stream(self, name: str) -> Iterator[bytes]:
        """Yield a file in chunks, once all of it has arrived on this machine."""
        with make_temporary_folder() as folder:
            path = self.download(name, to=Path(folder, "content"))
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk

    def list(self) -> Sequence[FileInfo]:
        """List the session's files by name."""
        return event_loop.run_blocking(self._files.list)

    def remove(self, name: str) -> None:
        """Remove a file from the session."""
        return event_loop.run_blocking(self._files.remove, name)

    def share(self, name: str, *, expires_in: Duration = DEFAULT_SHARE_DURATION) -> SharedFile:
        """Create a link for a person. Anyone who has it can read a copy of the file."""
        return event_loop.run_blocking(lambda: self._files.share(name, expires_in=expires_in))

    def unshare(self, shared: SharedFile) -> None:
        """Delete the copy that a link leads to."""
        event_loop.run_blocking(self._files.unshare, shared)


class BackgroundRun:
    """The blocking form of `cci_plugins.BackgroundRun`, with the same methods."""

    def __init__(self, run: _background_run.BackgroundRun) -> None:
        self._run = run

    def __repr__(self) -> str:
        return repr(self._run)

    @property
    def status(self) -> BackgroundStatus:
        """How far the run is."""
        return self._run.status

    def output(self, since: int = 0) -> BackgroundOutput:
        """Return what the code printed and displayed so far, without waiting."""
        return self._run.output(since)

    @overload
    def wait(self, timeout: None = None) -> Execution: ...

    @overload
    def wait(self, timeout: Duration) -> Execution | None: ...

    def wait(self, timeout: Duration | None = None) -> Execution | None:
        """Wait for the end of the run. None means that it goes on after the timeout."""
        if timeout is None:
            return event_loop.run_blocking(self._run.wait)
        return event_loop.run_blocking(self._run.wait, timeout)

    def cancel(self) -> bool:
        """End the run. False means that it had ended already."""
        return event_loop.run_blocking(self._run.cancel)


class Session:
    """The blocking form of `cci_plugins.Session`, with the same methods."""

    def __init__(self, session: _session.Session) -> None:
        self._session = session
        self.key = session.key
        self.files = SessionFiles(session.files)

    def __repr__(self) -> str:
        return repr(self._session)

    @property
    def id(self) -> str:
        """The derived identifier that the pool knows."""
        return self._session.id

    @property
    def busy(self) -> bool:
        """Whether a run or a transfer is in progress."""
        return self._session.busy

    def start_code(
        self,
        code: str,
        *,
        timeout: Duration | None = None,
        on_output: OutputHandler | None = None,
        tools: Sequence[HostTool] = (),
        approve_tool: ToolApprover | None = None,
    ) -> BackgroundRun:
        """Start code in this session, and return while it runs.

        `on_output` is called in the package's own thread.
        """
        start = partial(
            self._session.start_code,
            code,
            timeout=timeout,
            on_output=on_output,
            tools=tools,
            approve_tool=approve_tool,
        )
        return BackgroundRun(event_loop.run_blocking(start))

    def run_code(
        self,
        code: str,
        *,
        timeout: Duration | None = None,
        on_output: OutputHandler | None = None,
        tools: Sequence[HostTool] = (),
        approve_tool: ToolApprover | None = None,
    ) -> Execution:
        """Run code in this session. `on_output` is called in the calling thread."""
        run = partial(
            self._session.run_code, code, timeout=timeout, tools=tools, approve_tool=approve_tool
        )
        if on_output is None:
            return event_loop.run_blocking(run)
        events: SimpleQueue[OutputEvent | None] = SimpleQueue()
        future = event_loop.submit(partial(run, on_output=events.put))
        future.add_done_callback(lambda _: events.put(None))
        try:
            while (event := events.get()) is not None:
                on_output(event)
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def notebook(self) -> str:
        """Return the session's history as a Jupyter notebook, in nbformat 4 JSON."""
        return self._session.notebook()

    def interrupt(self) -> bool:
        """Stop the run in progress, which another thread waits for. Return whether there is one."""
        return event_loop.run_blocking(self._session.interrupt)

    def install(self, *packages: str) -> Mapping[str, str]:
        """Install packages for the code of this session. Return the new versions by name."""
        return event_loop.run_blocking(lambda: self._session.install(*packages))

    def restart(self) -> None:
        """Give the session a new Python process, and keep its files."""
        event_loop.run_blocking(self._session.restart)

    def save(
        self, to: SaveTarget | BlobStorage | None = None, *, retention: Duration | None = None
    ) -> Checkpoint:
        """Save the session's files and its history, whole or not at all."""
        return event_loop.run_blocking(lambda: self._session.save(to, retention=retention))

    def restore(
        self,
        checkpoint: Checkpoint | SaveTarget,
        *,
        storage: BlobStorage | None = None,
        replay: Sequence[CellName] = (),
    ) -> None:
        """Put the files of a checkpoint into this session, and its history."""
        event_loop.run_blocking(
            lambda: self._session.restore(checkpoint, storage=storage, replay=replay)
        )

    def delete(self) -> None:
        """End the session now and free its place in the pool."""
        event_loop.run_blocking(self._session.delete)


class CodeInterpreter(BlockingInterpreter):
    """The blocking form of `cci_plugins.CodeInterpreter`, with the same methods.

    Example:
        ```python
        with CodeInterpreter.local() as interpreter:
            print(interpreter.run_code("6 * 7").text)
        ```
    """

    def __init__(
        self,
        pool: SessionPool,
        *,
        approve: Approver | None = None,
        limits: Limits | None = None,
        session_secret: bytes | None = None,
        files: FileOptions | None = None,
        env: Env | None = None,
        workspace: str | PathLike[str] | BlobStorage | None = None,
    ) -> None:
        self._async = _interpreter.CodeInterpreter(
            pool,
            approve=approve,
            limits=limits,
            session_secret=session_secret,
            files=files,
            env=env,
            workspace=workspace,
        )

    @classmethod
    def _wrap(cls, interpreter: _interpreter.CodeInterpreter) -> Self:
        self = cls.__new__(cls)
        self._async = interpreter
        return self

    @classmethod
    def local(
        cls,
        *,
        approve: Approver | None = None,
        limits: Limits | None = None,
        files: FileOptions | None = None,
        egress: Egress = "none",
        env: Env | None = None,
        workspace: str | PathLike[str] | BlobStorage | None = None,
        packages: Sequence[str] = (),
    ) -> Self:
        """Create an interpreter over the embedded pool."""
        return cls._wrap(
            _interpreter.CodeInterpreter.local(
                approve=approve,
                limits=limits,
                files=files,
                egress=egress,
                env=env,
                workspace=workspace,
                packages=packages,
            )
        )

    @classmethod
    def azure(
        cls,
        endpoint: str,
        *,
        key: str | None = None,
        credential: TokenCredential | str | None = None,
        audience: str | None = None,
        approve: Approver | None = None,
        limits: Limits | None = None,
        session_secret: bytes | None = None,
        files: FileOptions | None = None,
        env: Env | None = None,
        workspace: str | PathLike[str] | BlobStorage | None = None,
    ) -> Self:
        """Create an interpreter over a session pool in Azure Container Apps."""
        return cls._wrap(
            _interpreter.CodeInterpreter.azure(
                endpoint,
                key=key,
                credential=credential,
                audience=audience,
                approve=approve,
                limits=limits,
                session_secret=session_secret,
                files=files,
                env=env,
                workspace=workspace,
            )
        )

    @classmethod
    def from_env(
        cls,
        *,
        approve: Approver | None = None,
        env_file: str | PathLike[str] | None = None,
    ) -> Self:
        """Create the interpreter that the environment configures."""
        return cls._wrap(_interpreter.CodeInterpreter.from_env(approve=approve, env_file=env_file))

    @property
    def limits(self) -> Limits:
        """Bounds of runs, files and sessions."""
        return self._async.limits

    def session(self, key: SessionKey | None = None, *, env: Env | None = None) -> Session:
        """Return the session of a conversation, with these environment variables for its code."""
        return Session(self._async.session(key, env=env))

    @contextmanager
    def use_session(self, key: SessionKey, *, max_runs: int | None = None) -> Generator[Session]:
        """Make a conversation's session the current one, for at most `max_runs` of a model."""
        with self._async.use_session(key, max_runs=max_runs) as session:
            yield Session(session)

    @property
    def known_packages(self) -> tuple[str, ...]:
        """Preinstalled packages that the pool can name without starting a session."""
        return self._async.known_packages

    @property
    def capabilities(self) -> Capabilities:
        """Abilities of the pool, as far as they are known before a call."""
        return self._async.capabilities

    def packages(self) -> Mapping[str, str]:
        """Return the installed packages with their versions, the best known packages first."""
        return event_loop.run_blocking(self._async.packages)

    def run_code(
        self,
        code: str,
        *,
        timeout: Duration | None = None,
        on_output: OutputHandler | None = None,
        tools: Sequence[HostTool] = (),
        approve_tool: ToolApprover | None = None,
    ) -> Execution:
        """Run code in the current session."""
        return self.session().run_code(
            code, timeout=timeout, on_output=on_output, tools=tools, approve_tool=approve_tool
        )

    def start_code(
        self,
        code: str,
        *,
        timeout: Duration | None = None,
        tools: Sequence[HostTool] = (),
        approve_tool: ToolApprover | None = None,
    ) -> BackgroundRun:
        """Start code in the current session, and return while it runs."""
        return self.session().start_code(
            code, timeout=timeout, tools=tools, approve_tool=approve_tool
        )

    def start(self) -> None:
        """Start the pool now, so that the first call is fast."""
        event_loop.run_blocking(self._async.start)

    def describe(self) -> str:
        """Start the pool and return one line: its name and the isolation of its sessions."""
        return event_loop.run_blocking(self._async.describe)

    def close(self) -> None:
        """End every session and close the pool. A second call does nothing."""
        event_loop.run_blocking(self._async.aclose, must_begin=True)

    async def __aenter__(self) -> NoReturn:
        """Refuse `async with`, in which calls would block the event loop."""
        raise WrongWithError(
            "this CodeInterpreter of cci_plugins.sync needs 'with', not 'async with'",
            hint="write 'with', or 'from cci_plugins import CodeInterpreter'",
        )

    async def __aexit__(self, *_: object) -> None:
        """Do nothing. Python looks for this method before it calls `__aenter__`."""

    def __copy__(self) -> Self:
        """Return the interpreter itself. Copies of a tool share its sessions."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the interpreter itself, as `__copy__` does."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()
