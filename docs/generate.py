"""Generator of the reference pages, which it makes from the code.

`python docs/generate.py` writes them. `python docs/generate.py --check` names the stale ones.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer

from cci_plugins import errors
from cci_plugins.cli.app import app
from cci_plugins.cli.console import ExitCode, get_exit_code
from cci_plugins.cli.help import get_option_label, get_option_text
from cci_plugins.common.file_trust import NAMED_FILE_ONLY
from cci_plugins.common.settings import Settings, get_variable_name
from cci_plugins.errors import CodeInterpreterError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "cci_plugins"
FOLDER = ROOT / "docs"
ARCHITECTURE = "concepts/architecture.md"
GENERATED = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)
NOTICE = "<!-- Written by docs/generate.py from the code; run `make docs` after a change. -->"


def pages() -> dict[str, str]:
    """Return the text of every generated page by its path below `docs`."""
    made = {
        "reference/cli.md": _cli(),
        "reference/settings.md": _settings(),
        "reference/errors.md": _errors(),
    }
    texts = {name: "\n".join([*lines, ""]) for name, lines in made.items()}
    return {**texts, ARCHITECTURE: _architecture()}


def stale() -> list[str]:
    """Return the names of the pages that differ from the code."""
    return [
        name
        for name, text in pages().items()
        if not (FOLDER / name).is_file() or (FOLDER / name).read_text(encoding="utf-8") != text
    ]


def main() -> None:
    """Write or check the pages."""
    names = stale()
    if "--check" in sys.argv[1:]:
        sys.exit(f"stale: {', '.join(names)}; run python docs/generate.py" if names else 0)
    for name in names:
        (FOLDER / name).write_text(pages()[name], encoding="utf-8")
        print(f"wrote {FOLDER / name}")


def _architecture() -> str:
    """Return the architecture page with its diagram and tables made from the import contracts."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["type"] == "layers")
    blocks = {
        "diagram": _layer_diagram(layers),
        "layers": _table(("Module", "What it is"), _layer_rows(layers)),
        "rules": _table(("Rule", "Not imported"), map(_rule, contracts)),
    }
    text = (FOLDER / ARCHITECTURE).read_text(encoding="utf-8")
    return GENERATED.sub(lambda m: "\n".join([m[1].rstrip(), *blocks[m[2]], m[3]]), text)


def _layer_diagram(layers: list[str]) -> Iterator[str]:
    """Yield the layers as boxes, top to bottom."""
    texts = [wrap(layer, 72) for layer in layers]
    width = max(len(line) for lines in texts for line in lines)
    edge = f"+{'-' * (width + 2)}+"
    yield from ("```text", edge)
    for lines in texts:
        yield from (f"| {line.center(width)} |" for line in lines)
        yield edge
    yield "```"


def _layer_rows(layers: list[str]) -> Iterator[tuple[str, str]]:
    for layer in layers:
        for name in re.split(r" [|:] ", layer):
            path = PACKAGE / name / "__init__.py"
            path = path if path.is_file() else PACKAGE / f"{name}.py"
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            yield f"`{name}`", _first_line(text)


def _rule(contract: dict[str, Any]) -> tuple[str, str]:
    package = re.compile(r"cci_plugins\.")
    names = [package.sub("", name) for name in contract.get("forbidden_modules", ())]
    return f"{contract['name']}.", ", ".join(f"`{name}`" for name in names)


def _cli() -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    yield from ("# The command line", "", NOTICE, "")
    yield "The command is `cci`. `cci-plugins` and `python -m cci_plugins` are the same command."
    yield "Data goes to stdout, and messages go to stderr. `NO_COLOR` turns colours off."
    yield from ("", *_table(("Option", "What it does"), _options(group)))
    for name, command in sorted(_commands(group)):
        arguments = " ".join(
            parameter.name.upper()
            for parameter in command.params
            if parameter.param_type_name == "argument"
        )
        yield from ("", f"## `{f'cci {name} {arguments}'.strip()}`", "", *_paragraphs(command.help))
        yield from ("", *_table(("Option", "What it does"), _options(command)))
    yield from ("", "## Exit codes", "")
    yield from _table(("Code", "When"), ((f"`{c.value}`", _sentence(c.meaning)) for c in ExitCode))


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command with the names of its groups."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _options(command: Any) -> Iterator[tuple[str, str]]:
    hints = get_type_hints(command.callback)
    for parameter in command.params:
        if parameter.param_type_name == "option" and "completion" not in parameter.name:
            yield _option(parameter, hints.get(parameter.name))


def _option(option: Any, kind: Any) -> tuple[str, str]:
    return f"`{get_option_label(option, kind, with_short=False)}`", get_option_text(option, kind)


def _choices(kind: Any) -> Iterator[str]:
    """Yield the values of a Literal, also within a union."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    else:
        for part in get_args(kind):
            yield from _choices(part)


def _settings() -> Iterator[str]:
    yield from ("# Settings", "", NOTICE, "")
    yield "`CodeInterpreter.from_env()`, every framework tool made without an argument, and the"
    yield "command line read these environment variables, also from a file `.env` in the current"
    yield "folder. With no variable set, they use the embedded pool, with the defaults below."
    yield "If only half of a pool is configured, they raise an error."
    yield ""
    yield "A folder that you opened may contain a `.env` of somebody else. So large limits and"
    yield "these variables count only in a file that you named, by `CCI_ENV_FILE`, `--env-file` or"
    yield "`from_env(env_file=...)`:"
    yield f"{_list_named_file_settings()}."
    yield "A key or token of the environment is never sent to an endpoint of a file that you did"
    yield "not name, and a token of your sign-in only to Azure's own hosts and this machine."
    yield from ("", *_table(("Variable", "Default", "What it does"), map(_setting, _fields())))


def _list_named_file_settings() -> str:
    names = sorted(get_variable_name(setting) for setting in NAMED_FILE_ONLY - {"env_file"})
    return ", ".join(f"`{name}`" for name in names)


def _fields() -> Iterable[Any]:
    return Settings.model_fields.values()


def _setting(field: Any) -> tuple[str, str, str]:
    first, *aliases = field.validation_alias.choices
    also = f" Also read as {', '.join(f'`{alias}`' for alias in aliases)}." if aliases else ""
    default = "" if field.default is None else f"`{field.default}`"
    return f"`{first}`", default, _sentence(field.description) + also


def _errors() -> Iterator[str]:
    yield from ("# Errors", "", NOTICE, "")
    yield "Every exception of the package is in `cci_plugins.errors` and is a"
    yield "`CodeInterpreterError`. Its `hint` is the next thing to try, or `None`. Its `retryable`"
    yield "is true if nothing was started, so that you may repeat the call. If the code in the"
    yield "session raises, you get no exception. Its traceback is in `Execution.error`."
    rows = (
        (
            f"`{kind.__name__}`",
            ", ".join(f"`{base.__name__}`" for base in kind.__bases__),
            _first_line(kind.__doc__),
            f"`{get_exit_code(kind.__new__(kind)).value}`",
        )
        for kind in _kinds(CodeInterpreterError)
    )
    yield from ("", *_table(("Error", "Is a", "When", "Exit code of `cci`"), rows))


def _kinds(kind: type[CodeInterpreterError]) -> Iterator[type[CodeInterpreterError]]:
    """Yield the subclasses, depth first, in the order of errors.py."""
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _kinds(child)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _paragraphs(text: str) -> Iterator[str]:
    yield from text.strip().splitlines()


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


if __name__ == "__main__":
    main()
