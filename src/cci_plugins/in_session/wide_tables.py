"""Options of table packages for a reader without a window: wide tables keep all their columns."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

WIDE_COLUMNS = 100


def show_wide_tables() -> None:
    """Let pandas and polars print up to `WIDE_COLUMNS` columns."""
    os.environ.setdefault("POLARS_FMT_MAX_COLS", str(WIDE_COLUMNS))
    call_when_imported("pandas", set_pandas_options)


def set_pandas_options(pandas: Any) -> None:
    """Set the options of a session in which nobody can scroll."""
    pandas.set_option("display.max_columns", WIDE_COLUMNS)


def call_when_imported(name: str, function: Callable[[ModuleType], object]) -> None:
    """Call a function with a module, now or when it has been imported."""
    if name in sys.modules:
        function(sys.modules[name])
    else:
        sys.meta_path.insert(0, _ImportHook(name, function))


class _ImportHook:
    """A finder that calls a function after the first import of one module."""

    def __init__(self, name: str, function: Callable[[ModuleType], object]) -> None:
        self._name = name
        self._function = function

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the module by the other finders, and wrap its loader."""
        del path, target
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            try:
                self._function(module)
            except Exception:  # noqa: BLE001 - a file of the user may have the same name
                return

        loader.exec_module = exec_module
        return spec
