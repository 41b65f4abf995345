"""The `cci` application: its commands, and the exit code of each outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from . import console
from .console import ExitCode
from .doctor import doctor
from .foundry import app as foundry
from .help import HelpCommand, HelpGroup
from .mcp import mcp
from .notebook import notebook
from .provision import app as provision
from .run import run
from .serve import serve
from .sessions import app as sessions
from .settings_file import SettingsFileOption

RUN_EXAMPLES = """\
cci run 'print(6 * 7)'
cci run report.py --upload sales.csv
cci run 'import this' --json
cci run analysis.ipynb"""

# Typer bundles its own copy of Click since 0.26. This is UsageError in either version.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="cci",
    cls=HelpGroup,
    help="Run Python in a sandbox, on this machine or in a session pool elsewhere.",
    epilog="Exit codes: "
    + ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=HelpCommand, epilog=RUN_EXAMPLES, no_args_is_help=True)(run)
app.command(cls=HelpCommand, epilog="cci serve --port 8000")(serve)
app.command(cls=HelpCommand, epilog="cci mcp --install vscode\ncci mcp --print-config cursor")(mcp)
app.command(cls=HelpCommand, epilog="cci doctor")(doctor)
app.command(cls=HelpCommand, epilog="cci notebook my-session")(notebook)
app.add_typer(foundry, name="foundry")
app.add_typer(provision, name="provision")
app.add_typer(sessions, name="sessions")


def _print_version(is_requested: bool) -> None:  # noqa: FBT001 - Typer's callback form
    if is_requested:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("cci-plugins")
        except PackageNotFoundError:
            number = "from source, not installed"
        console.write_stdout(f"cci-plugins {number}\n")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error of this command.")
    ] = False,
    env_file: SettingsFileOption = None,
) -> None:
    """Accept the options that stand before the command."""
    del version, env_file
    console.set_debug(is_on=debug)


def start(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Every exception becomes a message on stderr.

    Args:
        arguments: Arguments after the command's name, or None for those of `sys.argv`.
    """
    console.set_up_streams()
    try:
        code = app(
            args=None if arguments is None else list(arguments),
            prog_name="cci",
            standalone_mode=False,
        )
    except (typer.Abort, KeyboardInterrupt):
        return console.report_error(KeyboardInterrupt())
    except _UsageError as error:
        return _report_usage_error(error)
    except Exception as error:  # noqa: BLE001 - users get a message, not a traceback
        return console.report_error(error)
    if code == ExitCode.INTERRUPTED:  # Typer turns Ctrl-C into this exit code
        return console.report_error(KeyboardInterrupt())
    return code if isinstance(code, int) else ExitCode.OK


def _report_usage_error(error: Exception) -> int:
    """Print what is wrong with the command line, or the help if it has no arguments."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        console.write_stderr(f"{error}\n")
        return ExitCode.USAGE
    message = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
    command = "cci" if context is None else context.command_path
    console.print_error(message[:1].lower() + message[1:], f"{command} --help")
    return ExitCode.USAGE
