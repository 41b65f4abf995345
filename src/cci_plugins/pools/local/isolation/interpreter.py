"""Paths that a Python interpreter must be able to read in order to start."""

from __future__ import annotations

import json
import os
import site
import stat
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from cci_plugins.common.shortages import is_shortage
from cci_plugins.errors import ConfigurationError, IsolationError

from .managed_process import run_program

_QUERY_CODE = """
import importlib.util, json, os, sys
found = importlib.util.find_spec("ipykernel")
places = [sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(sys.executable)]
print(json.dumps([sys.executable, places, found is not None, sys.path]))
"""
_cache: dict[Path, Interpreter] = {}


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that can run a kernel.

    Attributes:
        executable: The real program, never a launcher script.
        folders: Folders outside `/usr` that it must be able to read, parents first.
        paths: Folders of packages that isolated mode (`-I`) leaves out: those of the user
            (`pip install --user`) and of `PYTHONPATH`.
    """

    executable: str
    folders: tuple[str, ...]
    paths: tuple[str, ...] = ()

    def with_packages(self, packages: Path | None) -> Interpreter:
        """Return this interpreter, which may also read a folder of packages."""
        if packages is None:
            return self
        return replace(self, folders=(*self.folders, str(packages)))

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
    if (own := _describe_own(python)) is not None:
        return own
    executable, places, has_kernel, isolated_path = await _run_query(python, "-I")
    is_own = python == Path(sys.executable)  # a host such as Azure Functions extends its own path
    full_path = sys.path if is_own else (await _run_query(python, "-P"))[3]
    _refuse_homes(_find_folders_outside_usr(places))
    paths = _find_package_folders(full_path, isolated_path)
    if not has_kernel and not _have_kernel(paths):
        raise ConfigurationError(
            f"{python} has no ipykernel", hint='pip install "cci-plugins[local]"'
        )
    return Interpreter(executable, _find_folders_outside_usr([*places, *paths]), paths)


def _describe_own(python: Path) -> Interpreter | None:
    """Describe this process's interpreter without running it. Return None if that is not sure.

    It is sure where every folder of packages is one that isolated mode has, too.
    """
    if python != Path(sys.executable) or sys.platform != "linux" or sys.flags.no_site:
        return None
    if not python.name.startswith("python") or not _is_binary(python):  # a server, a script
        return None
    known = site.getsitepackages()
    if not _have_kernel(tuple(known)) or _find_package_folders(sys.path, known):
        return None
    places = [sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(sys.executable).parent)]
    folders = _find_folders_outside_usr(places)
    _refuse_homes(folders)
    return Interpreter(sys.executable, folders)


def _is_binary(program: Path) -> bool:
    try:
        with program.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _have_kernel(paths: tuple[str, ...]) -> bool:
    return any(Path(path, "ipykernel").is_dir() for path in paths)


async def _run_query(python: Path, mode: str) -> tuple[str, list[str], bool, list[str]]:
    try:
        _, out = await run_program(python, mode, "-c", _QUERY_CODE)
        executable, places, has_kernel, path = json.loads(out)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{python} is not a Python interpreter that runs") from error
    return executable, places, has_kernel, path


def _find_package_folders(full_path: list[str], isolated_path: list[str]) -> tuple[str, ...]:
    """List the folders into which pip installed packages and which isolated mode leaves out.

    Other folders stay out, because they hold the application's own source. So does a folder that
    contains the home folder.
    """
    home = find_home()
    known = {os.path.realpath(path) for path in isolated_path}
    found: list[str] = []
    names = [name for name in full_path if name and isinstance(name, str)]  # others mean nothing
    for path in dict.fromkeys(map(_resolve, names)):
        contains_home = home is not None and _is_inside(home, path)
        if path not in known and not contains_home and _has_packages(path):
            found.append(path)
    return tuple(found)


def _resolve(path: str) -> str:
    try:
        return os.path.realpath(path)
    except PermissionError:  # of a link on the way
        return path


def _has_packages(path: str) -> bool:
    try:
        return any(Path(path).glob("*.dist-info"))
    except OSError as error:  # nothing can be imported from there
        if is_shortage(error):
            raise
        return False


def find_home() -> str | None:
    """Return the real path of the home folder. None if the user has neither HOME nor an account."""
    try:
        return os.path.realpath(Path.home())
    except RuntimeError:
        return None


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
    home = find_home()
    for folder in folders:
        if home is not None and _is_inside(home, os.path.realpath(folder)):
            raise IsolationError(
                f"the interpreter's own folder {folder} contains your home folder",
                hint="use an interpreter from a virtual environment",
            )
