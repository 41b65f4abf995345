"""`cci run`: code, a script or a notebook in a session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from typing import Annotated

import typer

from cci_plugins.common.settings import IsolationName, Settings
from cci_plugins.core.interpreter import build_file_options, build_pool
from cci_plugins.errors import (
    CodeInterpreterError,
    ConfigurationError,
    FileTransferError,
    UnsafeNameError,
)
from cci_plugins.models import Execution
from cci_plugins.sync import CodeInterpreter, Session

from . import console
from .console import ExitCode
from .output import JsonLinesReporter, Reporter, StreamReporter, is_successful_exit
from .saving import Saver, is_savable, match_files
from .source import Cell, RunInput, read_source
from .write_notebook import insert_outputs

_EXITS = {
    "succeeded": ExitCode.OK,
    "failed": ExitCode.CODE_FAILED,
    "died": ExitCode.CODE_FAILED,
    "timed_out": ExitCode.TIMED_OUT,
}


@dataclass(frozen=True, slots=True)
class _Job:
    """What one call of the command is to do."""

    source: RunInput
    reporter: Reporter
    saver: Saver
    timeout: timedelta | None
    uploads: tuple[Path, ...]
    downloads: tuple[str, ...]
    notebook: Path | None


def run(
    *,
    code: Annotated[
        str, typer.Argument(help="Python code, a .py script, a .ipynb notebook, or - for stdin.")
    ],
    session: Annotated[
        str | None,
        typer.Option(help="Session by name; a served pool keeps its variables between calls."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Longest run in seconds, of each cell.")
    ] = None,
    upload: Annotated[
        list[Path] | None,
        typer.Option(exists=True, help="File to put into the session first; a folder as a zip."),
    ] = None,
    download: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Files to fetch afterwards, such as '*.csv'."),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where images and downloaded files go.")
    ] = Path(),
    save_notebook: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what ran as a notebook.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each execution as one line of JSON.")
    ] = False,
    isolation: Annotated[
        IsolationName | None, typer.Option(help="Fence of the embedded pool.")
    ] = None,
) -> int:
    """Run Python in a session and show what comes out.

    Output streams while the code runs and the last expression's value is printed; images are
    saved and named. The code runs in the embedded pool on this machine, or in a session pool when
    AZURE_SESSION_POOL_MCP_ENDPOINT and AZURE_SESSION_POOL_MCP_KEY, or AZURE_SESSION_POOL_ENDPOINT,
    are set.
    """
    saver = Saver(output)
    job = _Job(
        source=read_source(code),
        reporter=JsonLinesReporter(saver) if as_json else StreamReporter(saver),
        saver=saver,
        timeout=None if timeout is None else timedelta(seconds=timeout),
        uploads=tuple(upload or ()),
        downloads=tuple(download or ()),
        notebook=save_notebook,
    )
    settings = load_settings(isolation)
    with _open_session(settings, session) as opened:
        return _run_job(job, opened)


def load_settings(isolation: IsolationName | None) -> Settings:
    """The environment's settings; one session is all that is needed, so none is kept ready."""
    settings = Settings.read()
    settings = settings.model_copy(update={"ready_sessions": 0})
    if isolation is None:
        return settings
    if settings.chosen_pool != "local":
        raise ConfigurationError(
            "--isolation is about the embedded pool, but a session pool is configured",
            hint="leave --isolation out, or set CCI_POOL=local",
        )
    return settings.model_copy(update={"isolation": isolation})


@contextmanager
def _open_session(settings: Settings, name: str | None) -> Iterator[Session]:
    """Open a session; one without a name is ended, as nobody could come back to it."""
    pool = build_pool(settings)
    with CodeInterpreter(
        pool,
        limits=settings.limits(),
        session_secret=settings.secret,
        files=build_file_options(settings),
    ) as interpreter:
        with console.show_progress("starting a session"):
            interpreter.start()
        if console.is_stderr_terminal() and pool.capabilities.isolation:
            console.print_message(f"isolation: {pool.capabilities.isolation}")
        session = interpreter.session(name or f"run-{token_hex(16)}")
        embedded = settings.chosen_pool == "local"
        try:
            yield session
        finally:
            if name is None and not embedded:
                session.delete()
        if name is not None and embedded:
            console.print_hint(
                "sessions of the embedded pool end with the command; keep them: cci serve"
            )
        elif name is not None and settings.secret is None:
            console.print_hint(
                "to come back to this session, set CCI_SESSION_SECRET to a text of yours"
            )


def _run_job(job: _Job, session: Session) -> ExitCode:
    for path in job.uploads:
        size = None if path.is_dir() else path.stat().st_size
        with console.show_transfer(f"uploading {path.name}", size) as on_progress:
            session.files.upload(path, on_progress=on_progress)
    executions: list[tuple[Cell, Execution]] = []
    try:
        code = _run_cells(job, session, executions)
    finally:
        if job.notebook is not None:
            _save_notebook(job, session, executions)
    try:
        _download(job, session)
    except CodeInterpreterError as error:
        if code is ExitCode.OK:
            raise
        console.print_warning(str(error))
    return code


def _run_cells(job: _Job, session: Session, executions: list[tuple[Cell, Execution]]) -> ExitCode:
    """Run cell after cell up to the first that fails and may not."""
    for cell in job.source.cells:
        execution = session.run_code(
            cell.code, timeout=job.timeout, on_output=job.reporter.handle_output
        )
        executions.append((cell, execution))
        job.reporter.finish(execution, cell.position)
        code = ExitCode.OK if is_successful_exit(execution) else _EXITS[execution.status]
        is_allowed_failure = cell.may_fail and execution.status == "failed"
        if code is not ExitCode.OK and not is_allowed_failure:
            return code
    return ExitCode.OK


def _download(job: _Job, session: Session) -> None:
    if not job.downloads:
        return
    files = session.files.list()
    sizes = {file.name: file.size for file in files}
    names = dict.fromkeys(name for pattern in job.downloads for name in match_files(files, pattern))
    safe_names = [name for name in names if is_savable(name)]
    if skipped := [name for name in names if not is_savable(name)]:
        text = f"skipped, because the names are not safe here: {', '.join(map(repr, skipped))}"
        if not safe_names:
            raise UnsafeNameError(text, hint="rename the files in the session")
        console.print_warning(text)
    for name in safe_names:
        with console.show_transfer(f"downloading {name}", sizes[name]) as on_progress:
            path = job.saver.save_file(
                name,
                lambda to: session.files.download(name, to=to, on_progress=on_progress),  # noqa: B023 - called at once
            )
        console.print_message(f"saved {path}")


def _save_notebook(job: _Job, session: Session, executions: list[tuple[Cell, Execution]]) -> None:
    """Write the notebook that was asked for, in place of an older one of that name."""
    path = job.notebook
    if path is None:
        return
    text = session.notebook()
    if job.source.notebook is not None:
        positions = [cell.position for cell, _ in executions]
        text = insert_outputs(job.source.notebook, text, positions)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise FileTransferError(f"cannot write {path}: {error.strerror}") from error
    console.print_message(f"saved {path}")
