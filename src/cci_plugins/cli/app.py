"""The `cci` application: its commands, and the exit code of each outcome."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from . import console
from .console import ExitCode
from .help import HelpCommand, HelpGroup
from .interrupts import defer_interrupt
from .settings_file import SettingsFileOption

RUN_EXAMPLES = """\
cci run 'print(6 * 7)'
cci run report.py --upload sales.csv
cci run 'import this' --json
cci run analysis.ipynb"""

# Typer bundles its own copy of Click since 0.26. This is UsageError in either version.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

_EXIT_CODES = "Exit codes: " + ", ".join(
    f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode
)
# each with the module and the examples of its help, or None for a group of commands
_COMMANDS = {
    "run": RUN_EXAMPLES,
    "serve": "cci serve --port 8000",
    "mcp": "cci mcp --install vscode\ncci mcp --print-config cursor",
    "doctor": "cci doctor",
    "notebook": "cci notebook my-session",
    "foundry": None,
    "provision": None,
    "sessions": None,
}


def build_app(*names: str) -> typer.Typer:
    """Build the application.

    Args:
        *names: Its commands. Only their modules are loaded, which takes most of a short command's
            time. Without names it has all.
    """
    built = typer.Typer(
        name="cci",
        cls=HelpGroup,
        help="Run Python in a sandbox, on this machine or in a session pool elsewhere.",
        epilog=_EXIT_CODES,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in names or _COMMANDS:
        module, examples = import_module(f".{name}", __package__), _COMMANDS[name]
        if examples is None:
            built.add_typer(module.app, name=name)
        else:
            command = getattr(module, name)
            no_args = name == "run"
            built.command(cls=HelpCommand, epilog=examples, no_args_is_help=no_args)(command)
    built.callback()(options)
    return built


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return build_app()


def _print_version(is_requested: bool) -> None:  # noqa: FBT001 - Typer's callback form
    if is_requested:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("cci-plugins")
        except PackageNotFoundError:
            number = "from source, not installed"
        console.write_stdout(f"cci-plugins {number}\n")
        raise typer.Exit


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

    Every exception of a command becomes a message on stderr.

    Args:
        arguments: Arguments after the command's name, or None for those of `sys.argv`.
    """
    console.set_up_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with defer_interrupt():
            app = build_app(*(name for name in given[:1] if name in _COMMANDS))
        code = app(
            args=given,
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
