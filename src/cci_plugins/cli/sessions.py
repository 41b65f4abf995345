"""`cci sessions`: the sessions of a server, what they ran, their files, and their end."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from cci_plugins.common.image_data import find_image_type
from cci_plugins.core.rendering import get_readable_text
from cci_plugins.errors import SessionLostError
from cci_plugins.models import Execution, OutputEvent, Result

from . import console
from .help import HelpCommand, HelpGroup
from .safe_text import MarkedWriter, escape_text
from .settings_file import SettingsFileOption

if TYPE_CHECKING:
    from .sessions_client import AnyClient, ConsoleRun, ListedSession

app = typer.Typer(
    cls=HelpGroup,
    help="Show the sessions of a server, what they ran and their files, and end them.",
    no_args_is_help=True,
)

SessionArgument = Annotated[
    str, typer.Argument(metavar="ID", help="Identifier of the session, as the list shows it.")
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Server of cci serve --console. By default AZURE_SESSION_POOL_MCP_ENDPOINT, or the "
        "pool of AZURE_SESSION_POOL_ENDPOINT, which keeps no history.",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Key of the server. Other users of this machine can see it in the process list, so "
        "better set AZURE_SESSION_POOL_MCP_KEY or CCI_SERVE_KEY.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_WAIT_SECONDS = 15
_CODE, _OUT, _ERR = "  > ", "  | ", "  ! "


@app.command("list", cls=HelpCommand, epilog="cci sessions list --json")
def list_sessions(
    *,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
    env_file: SettingsFileOption = None,
) -> None:
    """List sessions, the latest used first."""
    del env_file

    async def work() -> None:
        async with open_target(server, key) as client:
            listed = await client.list_sessions()
        if as_json:
            rows = [one.model_dump(mode="json", by_alias=True) for one in listed.sessions]
            _print_json(rows)
            return
        if listed.sessions:
            console.write_stdout(_format_table([_TITLES, *map(_build_row, listed.sessions)]))
        else:
            console.print_message("the list is empty")
        if not listed.is_complete:
            console.print_message(
                f"the pool {listed.pool!r} does not list its sessions, so these are the ones that "
                "ran code on this server"
            )

    anyio.run(work)


@app.command(cls=HelpCommand, epilog="cci sessions show my-session")
def show(
    session: SessionArgument,
    *,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
    env_file: SettingsFileOption = None,
) -> None:
    """Show what a session ran on the server, with its output."""
    del env_file

    async def work() -> None:
        async with open_target(server, key) as client:
            runs, dropped = await read_all_runs(client, session)
        if as_json:
            _print_json([_to_dict(run) for run in runs])
            return
        if dropped:
            console.print_message(f"{dropped:,} earlier runs are no longer kept")
        if not runs:
            console.print_message("the server has run no code in this session")
        for run in runs:
            printer = _RunPrinter(run)
            printer.add(run)
            printer.finish(run)

    anyio.run(work)


@app.command(cls=HelpCommand, epilog="cci sessions files my-session")
def files(
    session: SessionArgument,
    *,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
    env_file: SettingsFileOption = None,
) -> None:
    """List the files of a session."""
    del env_file

    async def work() -> None:
        async with open_target(server, key) as client:
            found = await client.list_files(session)
        if as_json:
            _print_json([{"name": file.name, "size": file.size} for file in found])
        elif found:
            rows = [[f"{file.size:,}", escape_name(file.name)] for file in found]
            console.write_stdout(_format_table([["BYTES", "NAME"], *rows]))
        else:
            console.print_message("the session has no files")

    anyio.run(work)


@app.command(cls=HelpCommand, epilog="cci sessions end my-session")
def end(
    session: SessionArgument,
    *,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
    env_file: SettingsFileOption = None,
) -> None:
    """End a session, with its variables, its files and the code that runs in it."""
    del env_file

    async def work() -> None:
        async with open_target(server, key) as client:
            await client.end(session)
        if as_json:
            _print_json({"ended": session})
        else:
            console.print_message(f"ended {escape_name(session)}")

    anyio.run(work)


@app.command(cls=HelpCommand, epilog="cci sessions watch my-session")
def watch(
    session: SessionArgument,
    *,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
    env_file: SettingsFileOption = None,
) -> None:
    """Show what a session runs while it runs, until it ends or you press Ctrl-C.

    With --json, each run is one line, once it has ended.
    """
    del env_file

    async def work() -> None:
        async with open_target(server, key) as client:
            await client.read_runs(session)  # it refuses where nothing is kept
            await _check_known(client, session)
            await _watch(client, session, as_json=as_json)

    anyio.run(work)


def open_target(server: str | None, key: str | None) -> AbstractAsyncContextManager[AnyClient]:
    """Open what the options or the settings name.

    Args:
        server: URL of a server of ours, or None for the settings.
        key: Its key, or None for the settings.
    """
    from .sessions_client import open_client  # other commands do without an HTTP client

    return open_client(server, key)


async def read_all_runs(client: AnyClient, session: str) -> tuple[list[ConsoleRun], int]:
    """Return the kept runs of a session, and how many are no longer kept.

    Raises:
        ConfigurationError: Nothing keeps what the session ran.
        SessionLostError: The server does not know the session.
    """
    page = await client.read_runs(session)
    if not page.version:
        await _check_known(client, session)
    runs, dropped = [*page.runs], page.dropped
    while page.has_more:
        page = await client.read_runs(session, runs[-1].number + 1)
        runs += page.runs
    return runs, dropped


async def _check_known(client: AnyClient, session: str) -> None:
    listed = await client.list_sessions()
    if all(one.identifier != session for one in listed.sessions):
        raise SessionLostError(
            f"the session {session!r:.200} has ended, or never existed",
            hint="list them: cci sessions list",
        )


async def _may_live(client: AnyClient, session: str) -> bool:
    """Return whether a session lives, which its pool may have ended without the server."""
    listed = await client.list_sessions()
    return any(one.may_live for one in listed.sessions if one.identifier == session)


async def _watch(client: AnyClient, session: str, *, as_json: bool) -> None:
    """Print runs as they come. A run in progress stands first in each answer."""
    first = since = version = 0
    printers: dict[int, _RunPrinter] = {}
    while True:
        page = await client.read_runs(
            session, first, since=since, version=version, wait=_WAIT_SECONDS
        )
        for run in page.runs:
            printer = printers.setdefault(run.number, _RunPrinter(run))
            first, since = run.number, run.at
            if not as_json:
                printer.add(run)
            if run.ended_at is None:
                break
            if as_json:
                _print_json(_to_dict(run))
            else:
                printer.finish(run)
            del printers[run.number]
            first, since = run.number + 1, 0
        is_idle = not printers and not page.has_more
        is_quiet = is_idle and (page.ended_at is not None or page.version == version)
        if is_quiet and not await _may_live(client, session):
            console.print_message("the session has ended")
            return
        version = page.version


class _RunPrinter:
    """Prints one run, at once or as it goes on."""

    def __init__(self, run: ConsoleRun) -> None:
        self._writer = MarkedWriter(console.write_stdout)
        self._has_begun = False
        self._shown: list[Result] = []
        self._has_text = False
        self._run = run

    def add(self, run: ConsoleRun) -> None:
        """Print output that came."""
        self._begin()
        for event in (one.build() for one in run.output):
            self._add_event(event)

    def finish(self, run: ConsoleRun) -> None:
        """Print what did not come as output, and how the run ended."""
        self._begin()
        execution = run.load_execution()
        had_text = self._has_text
        for event in () if execution is None else execution.outputs:
            is_known = had_text if event.result is None else event.result in self._shown
            if not is_known:
                self._add_event(event)
        self._writer.end_line()
        self._print_end(run, execution)

    def _begin(self) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        started = _format_time(self._run.started_at)
        console.write_stdout(f"run {self._run.number}, {self._run.entry}, {started}\n")
        self._writer.write(self._run.code, _CODE)
        self._writer.end_line()

    def _add_event(self, event: OutputEvent) -> None:
        if event.result is None:
            self._has_text = True
            self._writer.write(event.text, _ERR if event.stream == "stderr" else _OUT)
            return
        self._shown.append(event.result)
        self._writer.end_line()
        self._writer.write(_describe_result(event.result), _OUT)
        self._writer.end_line()

    def _print_end(self, run: ConsoleRun, execution: Execution | None) -> None:
        if execution is not None:
            error = execution.error
            if error is not None:
                self._writer.write(error.traceback or f"{error.name}: {error.message}", _ERR)
                self._writer.end_line()
            for note in execution.notes:
                self._writer.write(f"note: {note}", _ERR)
                self._writer.end_line()
        elif run.error:
            self._writer.write(run.error, _ERR)
            self._writer.end_line()
        status = escape_name(run.status)
        seconds = "" if execution is None else f", {execution.duration.total_seconds():.1f} s"
        console.write_stdout(f"run {run.number} {status}{seconds}\n")


def _describe_result(result: Result) -> str:
    kind = find_image_type(result.data)
    if kind is not None:
        return f"[{kind}]"
    kinds = (str(kind) for kind in result.data if kind != "text/plain")
    return get_readable_text(result) or f"[{', '.join(kinds)}]"


_TITLES = ["SESSION", "STATE", "RUNS", "LAST USED", "ENDS"]


def _build_row(session: ListedSession) -> list[str]:
    state = "idle" if session.may_live else "ended"
    return [
        escape_name(session.identifier),
        "busy" if session.is_busy else state,
        "-" if session.runs is None else f"{session.runs:,}",
        _format_time(session.last_used_at),
        _format_time(session.expires_at) if session.may_live else "-",
    ]


def _format_table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines) + "\n"


def escape_name(name: str) -> str:
    """Return a name of a session for one line of a terminal."""
    return escape_text(name).replace("\n", "\\n").replace("\t", "\\t")


def _format_time(time: datetime | None) -> str:
    return "-" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _to_dict(run: ConsoleRun) -> dict[str, Any]:
    facts = run.model_dump(mode="json", by_alias=True, exclude={"at"})
    return {
        name: value for name, value in facts.items() if name != "output" or run.execution is None
    }


def _print_json(value: object) -> None:
    console.write_stdout(json.dumps(value, default=str) + "\n")
