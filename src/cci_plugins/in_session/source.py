"""The source of modules that run inside of sessions, as they are sent there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

# What shows tables and charts as data, the same in every session.
DATA_FORMAT_MODULES = ("in_session/data.py", "in_session/tables.py", "in_session/charts.py")
_PACKAGE_IMPORT = re.compile(r"^from cci_plugins[.\w]* import (?:\([^)]*\)|.*)\n", re.MULTILINE)


@cache
def build_session_source(*modules: str) -> str:
    """Python that makes the names of modules in the namespace it runs in.

    Args:
        modules: Their files, below the package's folder: `in_session/streams.py`.

    Returns:
        Source for `exec`; in a session there is no `cci_plugins` to import from.
    """
    package = Path(__file__).parents[1]
    parts = [(package / name).read_text(encoding="utf-8") for name in modules]
    return "".join(
        f"exec(compile({_PACKAGE_IMPORT.sub('', part)!r}, '<cci>', 'exec'), globals())\n"
        for part in parts
    )
