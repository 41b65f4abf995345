"""`cci run`: code, a script or a notebook in a session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated

import typer

from cci_plugins.common.settings import IsolationName, Settings
from cci_plugins.core.pool_choice import build_pool
from cci_plugins.errors import (
    CodeInterpreterError,
    ConfigurationError,
    FileTransferError,
    UnsafeNameError,
)
from cci_plugins.models import Execution, OutputEvent

from . import console
from .console import ExitCode
from .early_start import start_early
from .interrupts import defer_interrupt
from .output import JsonLinesReporter, Reporter, StreamReporter, get_exit_status
from .run_hints import suggest_download, suggest_upload
from .saving import Saver, insert_outputs, is_savable, match_files
from .settings_file import SettingsFileOption
from .source import Cell, RunInput, read_source
from .variables import SessionEnvOption, get_remote_variables, parse_session_variables

if TYPE_CHECKING:
    from cci_plugins.sync import Session

IsolationOption = Annotated[
    IsolationName | None, typer.Option(help="Isolation backend of the embedded pool.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print each execution as one line of JSON.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(min=0.1, max=31_536_000, metavar="SECONDS", help="Time limit of each cell."),
]

_EXIT_CODES = {
    "succeeded": ExitCode.OK,
    "failed": ExitCode.CODE_FAILED,
    "died": ExitCode.CODE_FAILED,
    "timed_out": ExitCode.TIMED_OUT,
}


@dataclass(frozen=True, slots=True)
class _Job:
    """Work of one call of the command."""

    source: RunInput
    reporter: Reporter
    saver: Saver
    timeout: timedelta | None
    uploads: tuple[Path, ...]
    downloads: tuple[str, ...]
    notebook: Path | None
    folders: tuple[Path, ...]


def run(
    *,
    code: Annotated[
        str, typer.Argument(help="Python code, a .py script, a .ipynb notebook, or - for stdin.")
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARGUMENT...]", help="What the code finds in sys.argv."),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(help="Name of the session. A served pool keeps its variables between calls."),
    ] = None,
    timeout: TimeoutOption = None,
    upload: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, help="File to upload before the run. A folder is uploaded as a zip."
        ),
    ] = None,
    download: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Files to download after the run, such as '*.csv'."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing images and downloads.")
    ] = False,
    output: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder for images and downloads. By default this one."),
    ] = Path(),
    save_notebook: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the executed code and its output to a notebook."),
    ] = None,
    as_json: JsonOption = False,
    isolation: IsolationOption = None,
    env: SessionEnvOption = None,
    env_file: SettingsFileOption = None,
) -> int:
    """Run Python in a session and show its output.

    Output is printed while the code runs, then the value of the last expression. Images are
    saved, and their names printed. The code runs in the embedded pool on this machine, or in the
    session pool of AZURE_SESSION_POOL_MCP_ENDPOINT or AZURE_SESSION_POOL_ENDPOINT.
    """
    del env_file
    reporter = JsonLinesReporter if as_json else StreamReporter
    job = _Job(
        source=read_source(code, arguments or ()),
        reporter=reporter(saver := Saver(output, overwrite=overwrite)),
        saver=saver,
        timeout=None if timeout is None else timedelta(seconds=timeout),
        uploads=tuple(upload or ()),
        downloads=tuple(download or ()),
        notebook=save_notebook,
        folders=(Path(), Path(code).parent) if code.endswith(".py") else (Path(),),
    )
    with _open_session(load_settings(isolation), session, env or ()) as opened:
        return _run_job(job, opened)


def load_settings(isolation: IsolationName | None) -> Settings:
    """Return the environment's settings, with no session kept ready.

    Args:
        isolation: Isolation backend to use instead of the environment's, or None.

    Raises:
        ConfigurationError: A setting is invalid, or `isolation` is given for a session pool.
    """
    settings = Settings.read()
    settings = settings.model_copy(update={"ready_sessions": 0})
    if isolation is None:
        return settings
    if settings.chosen_pool != "local":
        raise ConfigurationError(
            "--isolation works only with the embedded pool, but a session pool is configured",
            hint="leave --isolation out, or set CCI_POOL=local",
        )
    return settings.model_copy(update={"isolation": isolation})


@contextmanager
def _open_session(settings: Settings, name: str | None, env: Sequence[str]) -> Iterator[Session]:
    """Open a session. A session without a name is deleted at the end."""
    variables = parse_session_variables(env)
    with defer_interrupt():
        pool = build_pool(settings)
    embedded = settings.chosen_pool == "local"
    with start_early(pool) as wait_until_started:
        with defer_interrupt():
            from cci_plugins.core.interpreter import build_file_options
            from cci_plugins.sync import CodeInterpreter

        with CodeInterpreter(
            pool,
            limits=settings.limits(),
            session_secret=settings.secret,
            files=build_file_options(settings),
            env={**get_remote_variables(settings), **variables},
        ) as interpreter:
            with console.show_progress("starting a session"):
                wait_until_started()
                interpreter.start()
            if console.is_stderr_terminal() and pool.capabilities.isolation:
                console.print_message(f"isolation: {pool.capabilities.isolation}")
            session = interpreter.session(name or f"run-{token_hex(16)}")
            try:
                yield session
            finally:
                if name is None and not embedded and pool.has_answered:
                    session.delete()
            if name is not None:
                _print_session_hint(embedded=embedded, has_secret=settings.secret is not None)


def _print_session_hint(*, embedded: bool, has_secret: bool) -> None:
    """Print how to use a named session again, where that takes more than its name."""
    if embedded:
        console.print_hint(
            "sessions of the embedded pool end with the command. To keep them, run: cci serve"
        )
    elif not has_secret:
        console.print_hint(
            "to use this session again, set CCI_SESSION_SECRET to a secret text of your own"
        )


def _run_job(job: _Job, session: Session) -> int:
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
        if code == ExitCode.OK:
            raise
        console.print_warning(str(error))
    if isinstance(job.reporter, StreamReporter):
        _print_hints(job, [execution for _, execution in executions])
    return code


def _print_hints(job: _Job, executions: list[Execution]) -> None:
    """Print how to get the files that the code made, and how to give it one that it missed."""
    if hint := suggest_upload(executions[-1].error if executions else None, job.folders):
        console.print_hint(hint)
    if text := suggest_download(executions, job.downloads):
        console.print_message(text)


def _run_cells(job: _Job, session: Session, executions: list[tuple[Cell, Execution]]) -> int:
    """Run the cells in order, up to the first that fails without permission."""
    for cell in job.source.cells:
        try:
            execution = _run_cell(job, session, cell)
        except BaseException:
            job.reporter.abort()
            raise
        executions.append((cell, execution))
        job.reporter.finish(execution, cell.position)
        status = get_exit_status(execution)
        code = _EXIT_CODES[execution.status] if status is None else status
        is_allowed_failure = cell.may_fail and execution.status == "failed"
        if code != ExitCode.OK and not is_allowed_failure:
            return code
    return ExitCode.OK


def _run_cell(job: _Job, session: Session, cell: Cell) -> Execution:
    with console.show_silence("the code is running") as end_silence:

        def handle_output(event: OutputEvent) -> None:
            end_silence(event.text)
            job.reporter.handle_output(event)

        return session.run_code(cell.source, timeout=job.timeout, on_output=handle_output)


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
                lambda to: session.files.download(
                    name,  # noqa: B023 - called in the loop
                    to=to,
                    overwrite=job.saver.overwrite,
                    on_progress=on_progress,
                ),
            )
        console.print_message(f"saved {path}")


def _save_notebook(job: _Job, session: Session, executions: list[tuple[Cell, Execution]]) -> None:
    """Write the notebook of `--save-notebook`, replacing an existing file."""
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
