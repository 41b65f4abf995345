"""Calls after a module was imported. Sent as source, standard library only.

Libraries are changed only when the code imports them. So one that it does not import costs nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class ImportHooks:
    """A finder on `sys.meta_path` that calls a function after a module was first imported."""

    def __init__(self) -> None:
        self._hooks: dict[str, Callable[[Any], None]] = {}
        self._searched: set[str] = set()  # a session may have two of these, which ask each other

    def add(self, name: str, hook: Callable[[Any], None]) -> None:
        """Call `hook` with the module: now if it is imported, else when it is."""
        if name in sys.modules:
            with suppress(Exception):  # another version of the library may differ
                hook(sys.modules[name])
            return
        self._hooks[name] = hook
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec that the other finders find, with a loader that calls the hook."""
        if name not in self._hooks or name in self._searched:
            return None
        self._searched.add(name)
        try:
            found = (
                finder.find_spec(name, path, target)
                for finder in sys.meta_path
                if finder is not self
            )
            spec: Any = next((one for one in found if one is not None), None)
        finally:
            self._searched.discard(name)
        if spec is not None and spec.loader is not None:
            with suppress(AttributeError):
                spec.loader.exec_module = self._wrap(name, spec.loader.exec_module)
        return spec

    def _wrap(self, name: str, execute: Callable[[Any], None]) -> Callable[[Any], None]:
        def execute_and_call(module: Any) -> None:
            execute(module)
            hook = self._hooks.pop(name, None)
            with suppress(Exception):  # another version of the library may differ
                if hook is not None:
                    hook(module)

        return execute_and_call
