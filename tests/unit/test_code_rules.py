"""Rules of the code that no linter checks."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import cci_plugins
from cci_plugins import sync
from cci_plugins.common import settings
from cci_plugins.core import interpreter, session, session_files

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "src").rglob("*.py"))
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60


def find_what_is_too_large(source: str) -> Iterator[str]:
    if (lines := source.count("\n")) > MAX_MODULE_LINES:
        yield f"{lines} lines"
    tree = ast.parse(source)
    if not ast.get_docstring(tree):
        yield "no docstring"
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.end_lineno:
            continue
        if (lines := node.end_lineno - node.lineno) >= MAX_FUNCTION_LINES:
            yield f"{node.name}: {lines} lines"


def test_modules_and_functions_are_small_and_modules_have_a_docstring() -> None:
    found = {
        str(path.relative_to(ROOT)): list(find_what_is_too_large(path.read_text(encoding="utf-8")))
        for path in MODULES
    }
    assert {name: faults for name, faults in found.items() if faults} == {}


def test_environment_names_are_spelt_in_settings_only() -> None:
    names = {
        str(name)
        for field in settings.Settings.model_fields.values()
        for name in field.validation_alias.choices  # type: ignore[union-attr]
    }
    literal = re.compile("|".join(f"['\"]{name}['\"]" for name in sorted(names)))
    found = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if path.name != "settings.py" and literal.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_the_public_names_are_sorted_complete_and_importable() -> None:
    assert cci_plugins.__all__ == sorted(cci_plugins.__all__)
    assert set(cci_plugins.__all__) == set(cci_plugins._LAZY_EXPORTS)
    for name in cci_plugins.__all__:
        assert getattr(cci_plugins, name) is not None
    with pytest.raises(AttributeError):
        cci_plugins.missing  # noqa: B018


def test_importing_the_package_loads_no_third_party_module() -> None:
    code = (
        "import sys; before = set(sys.modules); import cci_plugins; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    # -S: without the imports of the environment's own .pth files
    run = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); {code}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(run.stdout.split())
    assert loaded - set(sys.stdlib_module_names) == {"cci_plugins"}


def find_optional_modules() -> Iterator[str]:
    """Find the modules without which tests are skipped."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        yield from re.findall(r'importorskip\(\s*"([\w.]+)"', path.read_text(encoding="utf-8"))


def has_module(name: str) -> bool:
    """Look for a module without importing anything."""
    top, *rest = name.split(".")
    spec = find_spec(top)
    if spec is None or not rest:
        return spec is not None
    places = [Path(place, *rest) for place in spec.submodule_search_locations or ()]
    return any(place.is_dir() or place.with_suffix(".py").exists() for place in places)


def test_no_test_is_skipped_for_want_of_a_module_that_no_environment_has() -> None:
    if find_spec("importlinter") is None:
        pytest.skip("only the default environment has all modules")
    names = set(find_optional_modules())
    assert "jupyter_client" in names
    assert {name for name in names if not has_module(name)} == set()


PAIRS = [
    (interpreter.CodeInterpreter, sync.CodeInterpreter),
    (session.Session, sync.Session),
    (session_files.SessionFiles, sync.SessionFiles),
]
RENAMED = {"aclose": "close"}


@pytest.mark.parametrize(("awaited", "blocking"), PAIRS)
def test_the_blocking_classes_have_the_same_signatures(awaited: type, blocking: type) -> None:
    public = {name: RENAMED.get(name, name) for name in vars(awaited) if not name.startswith("_")}
    assert {name for name in vars(blocking) if not name.startswith("_")} == set(public.values())
    for name, renamed in public.items():
        if isinstance(vars(awaited)[name], property):
            continue
        signature = inspect.signature(inspect.unwrap(getattr(blocking, renamed)))
        expected = inspect.signature(inspect.unwrap(getattr(awaited, name)))
        assert list(signature.parameters.values()) == list(expected.parameters.values()), name


def test_both_interpreters_have_the_same_constructor() -> None:
    expected = inspect.signature(interpreter.CodeInterpreter).parameters
    assert expected == inspect.signature(sync.CodeInterpreter).parameters
