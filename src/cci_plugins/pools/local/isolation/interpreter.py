"""Paths that a Python interpreter must be able to read in order to start."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cci_plugins.errors import ConfigurationError, IsolationError

from .managed_process import run_program

_QUERY_CODE = """
import importlib.util, json, os, sys
found = importlib.util.find_spec("ipykernel")
places = [sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(sys.executable)]
print(json.dumps([sys.executable, places, found is not None]))
"""
_cache: dict[Path, Interpreter] = {}


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that can run a kernel.

    Attributes:
        executable: The real program, never a launcher script.
        folders: Folders outside `/usr` that it must be able to read, parents first.
    """

    executable: str
    folders: tuple[str, ...]

    @property
    def is_reachable(self) -> bool:
        """Whether any user of this machine may read those folders."""
        return all(is_reachable_by_anyone(folder) for folder in (*self.folders, self.executable))


def is_reachable_by_anyone(path: str) -> bool:
    """Return whether any user may enter every folder above a path."""
    real = Path(os.path.realpath(path))
    folders = [real, *real.parents] if real.is_dir() else list(real.parents)
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)


async def inspect(python: Path) -> Interpreter:
    """Run an interpreter once to find its folders. Later calls return the cached result.

    Raises:
        ConfigurationError: It does not run, or has no ipykernel.
        IsolationError: One of its folders contains the home folder.
    """
    if python not in _cache:
        _cache[python] = await _query(python)
    return _cache[python]


async def _query(python: Path) -> Interpreter:
    try:
        _, out = await run_program(python, "-I", "-c", _QUERY_CODE)
        executable, places, has_kernel = json.loads(out)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{python} is not a Python interpreter that runs") from error
    if not has_kernel:
        raise ConfigurationError(
            f"{python} has no ipykernel", hint='pip install "cci-plugins[local]"'
        )
    folders = _find_folders_outside_usr(places)
    _refuse_homes(folders)
    return Interpreter(executable, folders)


def _find_folders_outside_usr(places: list[str]) -> tuple[str, ...]:
    """List each folder as given and with links resolved, without those inside another."""
    names = {os.path.normpath(place) for place in places} | set(map(os.path.realpath, places))
    found: list[str] = []
    for name in sorted(names):
        if not any(_is_inside(name, parent) for parent in ("/usr", "/bin", *found)):
            found.append(name)
    return tuple(found)


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _refuse_homes(folders: tuple[str, ...]) -> None:
    home = os.path.realpath(Path.home())
    for folder in folders:
        if _is_inside(home, os.path.realpath(folder)):
            raise IsolationError(
                f"the interpreter's own folder {folder} contains your home folder",
                hint="use an interpreter from a virtual environment",
            )
