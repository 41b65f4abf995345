"""Help texts of the commands, laid out for terminals of every width."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

_MAX_WIDTH = 88
_MIN_WIDTH = 24
# Below this width, an explanation starts on a line of its own.
_TWO_COLUMNS = 64
# The current folder needs no name.
_NO_DEFAULTS = (None, "", Path())
_VALUE_NAMES = {Path: "PATH", int: "NUMBER", float: "NUMBER", str: "TEXT"}


class HelpCommand(TyperCommand):
    """Command whose help has plain types, an example, and short lines on narrow terminals."""

    @override
    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_format_help(self, ctx))


class HelpGroup(TyperGroup):
    """Group of commands with the same help layout."""

    @override
    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_format_help(self, ctx))


def get_option_label(option: Any, kind: Any, *, with_short: bool = True) -> str:
    """Return an option's names and the kind of its value, such as `--upload PATH`.

    Args:
        option: Option of a Typer command.
        kind: Type hint of the parameter, or None for an option without one, such as `--help`.
        with_short: Whether to add the short names.
    """
    names = [name for name in option.opts if name.startswith("--")] or list(option.opts)
    if with_short:
        names += [name for name in option.opts if name not in names]
    label = ", ".join(names if with_short else names[:1])
    if option.secondary_opts:
        label += f" / {option.secondary_opts[0]}"
    return label if option.is_flag else f"{label} {_get_value_name(option, kind)}"


def get_option_text(option: Any, kind: Any) -> str:
    """Return an option's explanation with its choices, its default and how often it may stand."""
    parts = [option.help or ""]
    if choices := get_choices(kind):
        parts.append(f"One of {', '.join(choices)}.")
    if option.multiple:
        parts.append("May be given more than once.")
    elif not option.is_flag and option.default not in _NO_DEFAULTS:
        parts.append(f"Default: {option.default}")
    return " ".join(part for part in parts if part)


def get_choices(kind: Any) -> tuple[str, ...]:
    """Return the values that a parameter's type allows. Return an empty tuple for other types."""
    for part in _list_types(kind):
        if get_origin(part) is Literal:
            return tuple(str(choice) for choice in get_args(part))
        if isinstance(part, type) and issubclass(part, Enum):
            return tuple(str(choice.value) for choice in part)
    return ()


def _list_types(kind: Any) -> tuple[Any, ...]:
    """Return the types that an optional, a union or a list consists of."""
    if get_origin(kind) in {Union, UnionType, list, tuple}:
        return tuple(part for choice in get_args(kind) for part in _list_types(choice))
    return (kind,)


def _get_value_name(option: Any, kind: Any) -> str:
    if option.metavar:
        return str(option.metavar)
    if get_choices(kind):
        return "NAME"
    names = (_VALUE_NAMES.get(part) for part in _list_types(kind))
    return next((name for name in names if name), "TEXT")


def _format_help(command: Any, context: Any) -> str:
    width = max(_MIN_WIDTH, min(shutil.get_terminal_size().columns, _MAX_WIDTH) - 1)
    hints = get_type_hints(command.callback) if command.callback else {}
    parameters = command.get_params(context)
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    options = [each for each in parameters if each.param_type_name == "option" and not each.hidden]
    lines = [*_fill(f"Usage: {context.command_path} {_get_usage(command, arguments)}", width, 2)]
    for paragraph in (command.help or "").split("\n\n"):
        lines += ["", *_fill(" ".join(paragraph.split()), width)]
    argument_rows = [(_get_argument_name(each), each.help or "") for each in arguments]
    lines += _format_section("Arguments", argument_rows, width)
    option_rows = [
        (get_option_label(each, hints.get(each.name)), get_option_text(each, hints.get(each.name)))
        for each in options
    ]
    lines += _format_section("Options", option_rows, width)
    commands = getattr(command, "commands", {})
    command_rows = [(name, _get_summary(each)) for name, each in commands.items()]
    lines += _format_section("Commands", command_rows, width)
    lines += _format_epilog(command.epilog, width)
    return "\n".join(lines) + "\n"


def _get_usage(command: Any, arguments: list[Any]) -> str:
    if hasattr(command, "commands"):
        return "[OPTIONS] COMMAND ..."
    return " ".join(["[OPTIONS]", *map(_get_argument_name, arguments)])


def _get_argument_name(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return str(name if argument.required or name.startswith("[") else f"[{name}]")


def _get_summary(command: Any) -> str:
    return " ".join((command.help or "").split("\n\n")[0].split())


def _format_section(title: str, rows: list[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield a heading and its rows, in two columns where the terminal is wide enough."""
    if not rows:
        return
    yield from ("", f"{title}:")
    column = min(max(len(label) for label, _ in rows), width // 3) + 4
    for label, text in rows:
        if width < _TWO_COLUMNS or len(label) + 4 > column:
            yield from _fill(f"  {label}", width, 6)
            indent = 6 if width < _TWO_COLUMNS else column
            yield from _fill(" " * indent + text, width, indent)
        else:
            yield from _fill(f"  {label}".ljust(column) + text, width, column)


def _format_epilog(epilog: str | None, width: int) -> Iterator[str]:
    """Yield the text after the options: an example as it is, other text wrapped."""
    if not epilog:
        return
    yield ""
    if not epilog.startswith("cci "):
        yield from _fill(epilog, width)
        return
    yield "Examples:" if "\n" in epilog else "Example:"
    yield from (f"  {example}" for example in epilog.splitlines())


def _fill(text: str, width: int, indent: int = 0) -> list[str]:
    """Wrap a text. Lines after the first are indented."""
    return textwrap.wrap(
        text,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
