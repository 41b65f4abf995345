"""Packages of the session image: a `requirements.txt` that needs no other file of this machine.

The build in the cloud sees one file. So files that it includes by `-r` are copied into it, and
what can only be read on this machine is refused before anything is created.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cci_plugins.errors import ConfigurationError

_KERNEL_REQUIREMENT = re.compile(r"^\s*ipykernel\b", re.MULTILINE | re.IGNORECASE)
_INCLUDE = re.compile(r"(?:-r|--requirement)(?:\s+|\s*=\s*|(?<=-r)(?=\S))(\S+)\s*(?:#.*)?")
_LOCAL_OPTION = re.compile(r"(?:-c|--constraint|-e|--editable|-f|--find-links)\b")
_LOCAL_PATH = re.compile(
    r"\.{0,2}[\\/]|~|file:|[A-Za-z]:[\\/]|[^\s@;#]+\.(?:whl|zip|tar\.gz)\s*(?:$|[;#])"
)
_LOCAL_REFERENCE = re.compile(r"@\s*(?:file:|\.{0,2}[\\/])")


def read_requirements(path: Path) -> bytes:
    """Return the packages in a form that a build elsewhere can install.

    Args:
        path: A `requirements.txt`. It may include others by `-r`.

    Raises:
        ConfigurationError: A file cannot be read, or a line names something on this machine.
    """
    text = "".join(f"{line}\n" for line in _read_lines(path, ()))
    if not _KERNEL_REQUIREMENT.search(text):
        text = f"{text.rstrip()}\nipykernel\n"  # the server needs it
    return text.encode()


def _read_lines(path: Path, parents: tuple[Path, ...]) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read ({type(error).__name__})",
            hint="name a requirements.txt by --requirements",
        ) from None
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        include = _INCLUDE.fullmatch(bare)
        if include is not None and "://" not in include[1]:
            other = (path.parent / include[1]).resolve()
            if other not in parents:  # pip reads each file once, too
                yield from _read_lines(other, (*parents, path.resolve()))
            continue
        if _is_local(bare):
            raise ConfigurationError(
                f"{path}, line {number}: {bare[:200]!r} is on this machine, and the build in the "
                "cloud cannot read it",
                hint="publish it to an index, or build an image yourself and name it by --image",
            )
        yield line


def _is_local(line: str) -> bool:
    """Return whether a line needs a file or folder of this machine."""
    if line.startswith("file:") or _LOCAL_REFERENCE.search(line):
        return True
    has_url = "://" in line
    return not has_url and any(one.match(line) for one in (_LOCAL_OPTION, _LOCAL_PATH))
