"""Environment variables that the application gives the code of a session."""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

ENVIRONMENT_KEY = "cci_environment"  # in the metadata of an execute request
PACKAGES_KEY = "cci_packages"


class GivenEnvironment:
    """The variables that the application gave last.

    They are set when they change, so that what the code sets itself stays.
    """

    def __init__(self) -> None:
        self._given: dict[str, str] = {}
        self._replaced: dict[str, str | None] = {}

    def apply(self, given: dict[str, str]) -> None:
        """Set the variables, and take back those that are not given any longer."""
        if given == self._given:
            return
        for name in [name for name in self._given if name not in given]:
            before = self._replaced.pop(name, None)
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
        for name, value in given.items():
            if self._given.get(name) != value:
                if name not in self._given:
                    self._replaced[name] = os.environ.get(name)
                os.environ[name] = value
        self._given = dict(given)
        if hasattr(time, "tzset"):
            time.tzset()


def add_packages(folder: str) -> None:
    """Find packages in this folder, after all others, here and in child processes."""
    if folder not in sys.path:
        sys.path.append(folder)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if folder not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, folder])
    importlib.invalidate_caches()


def install_environment(kernel: Any) -> None:
    """Set the variables that a run brings, before its code.

    Args:
        kernel: The kernel.
    """
    environment = GivenEnvironment()
    do_execute = kernel.do_execute

    async def execute(*arguments: Any, **options: Any) -> Any:
        metadata = kernel.get_parent("shell").get("metadata", {})
        given = metadata.get(ENVIRONMENT_KEY)
        if given is not None:
            environment.apply(given)
        packages = metadata.get(PACKAGES_KEY)
        if packages is not None:
            add_packages(packages)
        return await do_execute(*arguments, **options)

    kernel.do_execute = execute
