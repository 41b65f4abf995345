"""The words of code and documentation are plain English and the field's own terms."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "docs", "samples", "benchmarks")
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "infra")
FILES = sorted(
    path
    for place in (*FOLDERS, *PAGES)
    for path in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*"))
    if path.suffix in {".py", ".md"}
)
MODULES = [path for path in FILES if path.suffix == ".py"]

# People say and tell; machines return, report, send, raise. No metaphor for the architecture.
BANNED = re.compile(
    r"""\b(?:
        told | tells | telling | hear | hears | heard | says | said
      | dress | dressed | fenced | mend | mends | mended | befall | befalls
      | anew | whoever | doors? | doorway
      | (?:is|are)\ (?-i:none) | (?:is|are|was|were)\ no(?!\ longer|\ more\ than)\b(?=\ \w)
      | to\ be\ had | but\ for | any\ more | beside
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
BANNED_FIRST = {"What", "Whether", "Which", "How", "Where", "The", "A", "One"}
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def find_banned(text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        for match in BANNED.finditer(line):
            yield f"line {number}: {match[0]!r} in {line.strip()!r}"


def is_property(node: ast.AST) -> bool:
    names = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
    return any(name.rsplit(".")[-1] in {"property", "cached_property", "setter"} for name in names)


def find_in_docstrings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) or not (text := ast.get_docstring(node)):
            continue
        where = getattr(node, "name", "module")
        if ";" in CODE.sub("", text):
            yield f"{where}: a semicolon in {text.splitlines()[0]!r}"
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and not is_property(node) and text.split()[0] in BANNED_FIRST:
            yield f"{where}: begins with {text.split()[0]!r}"


def test_no_word_of_a_private_dialect_is_used() -> None:
    found = {name_of(path): list(find_banned(path.read_text(encoding="utf-8"))) for path in FILES}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_docstrings_begin_with_a_verb_and_hold_no_semicolon() -> None:
    found = {
        name_of(path): list(find_in_docstrings(path.read_text(encoding="utf-8")))
        for path in MODULES
    }
    assert {name: lines for name, lines in found.items() if lines} == {}
