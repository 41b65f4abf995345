"""The API reference names everything public, by the path that users should import it from."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from cci_plugins import CodeInterpreter, Session
from cci_plugins.core.session_files import SessionFiles

from .blocks import ROOT

PAGE = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
DIRECTIVE = re.compile(
    r"^::: (?P<path>[\w.]+)\n(?:    options:\n      members: \[(?P<members>[^]]*)\]\n)?",
    re.MULTILINE,
)
# What is shown of each object: all its public members when it lists none.
SHOWN: dict[str, list[str] | None] = {
    match["path"]: None if match["members"] is None else re.findall(r"\w+", match["members"])
    for match in DIRECTIVE.finditer(PAGE)
}
MODULES = (
    "cci_plugins",
    "cci_plugins.agent_framework",
    "cci_plugins.deepagents",
    "cci_plugins.doctor",
    "cci_plugins.errors",
    "cci_plugins.foundry",
    "cci_plugins.foundry.sync",
    "cci_plugins.langchain",
    "cci_plugins.openai_agents",
    "cci_plugins.provisioning",
    "cci_plugins.redaction",
    "cci_plugins.rendering",
    "cci_plugins.semantic_kernel",
    "cci_plugins.sync",
    "cci_plugins.testing",
)
# Listed under the module where users look for it. The page gives the second path in a sentence.
ELSEWHERE = {"cci_plugins.CodeInterpreterError": "cci_plugins.errors.CodeInterpreterError"}
# Not importable from a documented module. A user gets the object from one that is.
INTERNAL = {
    "cci_plugins.core.session_files.SessionFiles": "`session.files`",
    "cci_plugins.pools.base.Capabilities": "`capabilities`",
}
# Users start these with `cci` and do not import them.
COMMANDS = {"cci_plugins.cli", "cci_plugins.server"}
CLASSES: dict[str, type] = {
    "cci_plugins.CodeInterpreter": CodeInterpreter,
    "cci_plugins.Session": Session,
    "cci_plugins.core.session_files.SessionFiles": SessionFiles,
}


def public_names(module: Any) -> list[str]:
    """Return `__all__`, or else the public classes that the module defines."""
    return getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and name[0] != "_"
    ]


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_on_the_page(name: str) -> None:
    paths = [f"{name}.{one}" for one in public_names(importlib.import_module(name))]
    assert [path for path in paths if ELSEWHERE.get(path, path) not in SHOWN] == []


@pytest.mark.parametrize("path", CLASSES)
def test_every_public_method_is_on_the_page(path: str) -> None:
    shown = SHOWN[path]
    public = {name: value for name, value in vars(CLASSES[path]).items() if name[0] != "_"}
    assert shown is None or set(shown) == set(public)
    # mkdocstrings shows a member only if it has a docstring.
    assert [name for name, value in public.items() if not value.__doc__] == []


@pytest.mark.parametrize("path", SHOWN)
def test_a_heading_is_a_path_that_users_can_import(path: str) -> None:
    module, _, name = path.rpartition(".")
    value = getattr(importlib.import_module(module), name)
    for member in SHOWN[path] or ():
        assert hasattr(value, member), member
    assert module in MODULES or INTERNAL[path] in PAGE


def test_no_object_is_on_the_page_twice() -> None:
    assert len(SHOWN) == PAGE.count("\n::: ")


def test_every_public_module_is_compared() -> None:
    """A module in the package root with public names is in the list above."""
    root = Path(importlib.import_module("cci_plugins").__file__ or "").parent
    with_names = {
        f"cci_plugins.{path.stem if path.name != '__init__.py' else path.parent.name}"
        for path in (*root.glob("*.py"), *root.glob("*/__init__.py"))
        if path != root / "__init__.py" and "__all__" in path.read_text(encoding="utf-8")
    }
    assert with_names - COMMANDS <= set(MODULES)
