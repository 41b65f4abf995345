"""`cci notebook`: what a session ran, as a Jupyter notebook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from cci_plugins.core.notebook import Notebook
from cci_plugins.core.session_checkpoints import read_history
from cci_plugins.errors import ConfigurationError, TargetExistsError
from cci_plugins.files.target import create_file
from cci_plugins.models import ErrorInfo, Execution, OutputEvent, Result
from cci_plugins.redaction import REDACTED

from . import console
from .sessions import KeyOption, ServerOption, open_target, read_all_runs
from .settings_file import SettingsFileOption

if TYPE_CHECKING:
    from .sessions_client import ConsoleRun


def notebook(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SESSION", help="Identifier of a session, or the folder of a checkpoint."
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Notebook to write. By default SESSION.ipynb."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing notebook.")
    ] = False,
    server: ServerOption = None,
    key: KeyOption = None,
    env_file: SettingsFileOption = None,
) -> None:
    """Write what a session ran, and what came of it, as a Jupyter notebook.

    The session is one of a server with a console, or a checkpoint of Session.save in a folder.
    """
    del env_file
    folder = Path(source)
    if folder.is_dir():
        text = anyio.run(read_history, folder)
    else:
        text = anyio.run(_read_session, source, server, key)
    path = output or Path(f"{re.sub(r'[^A-Za-z0-9._-]', '-', folder.name)[:100]}.ipynb")
    try:
        with create_file(path, overwrite=overwrite) as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
    except TargetExistsError as error:
        raise TargetExistsError(
            str(error), hint="name another file with --output, or add --overwrite"
        ) from None
    console.print_message(f"saved {path}")


async def _read_session(session: str, server: str | None, key: str | None) -> str:
    async with open_target(server, key) as client:
        runs, dropped = await read_all_runs(client, session)
    if not runs:
        raise ConfigurationError(
            f"the server keeps no runs of the session {session!r:.200}",
            hint="list the sessions: cci sessions list",
        )
    if dropped:
        console.print_warning(f"{dropped:,} earlier runs are no longer kept")
    result = Notebook()
    for run in runs:
        result.add(run.code, _get_execution(run), is_redacted=REDACTED in run.code)
    return result.to_json()


def _get_execution(run: ConsoleRun) -> Execution:
    """Return a run's execution, or what is known of one that has none."""
    execution = run.load_execution()
    if execution is not None:
        return execution
    events = [one.build() for one in run.output]
    results: list[Result] = [event.result for event in events if event.result is not None]
    error = None if run.ended_at is None else ErrorInfo("Stopped", run.error)
    return Execution(
        stdout=_join(events, "stdout"),
        stderr=_join(events, "stderr"),
        results=tuple(results),
        error=error,
        outputs=tuple(events),
    )


def _join(events: list[OutputEvent], stream: str) -> str:
    return "".join(event.text for event in events if event.stream == stream)
