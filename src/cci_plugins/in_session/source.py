"""Source of the modules that run in sessions, in the form in which it is sent."""

from __future__ import annotations

import base64
import importlib.util
import marshal
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

# These bound output, and show tables and charts as data. Every kind of session runs the same ones.
DATA_FORMAT_MODULES = (
    "in_session/streams.py",
    "in_session/message_bounds.py",
    "in_session/data.py",
    "in_session/tables.py",
    "in_session/figures.py",
    "in_session/charts.py",
)
# These make ordinary Python behave in IPython, in every kind of session.
PLAIN_PYTHON_MODULES = (
    "in_session/script_comment.py",
    "in_session/plain_python.py",
    "in_session/terminal_streams.py",
    "in_session/interrupts.py",
    "in_session/nested_loops.py",
    "in_session/wide_tables.py",
)
_PACKAGE_IMPORT = re.compile(r"^from cci_plugins[.\w]* import (?:\([^)]*\)|.*)\n", re.MULTILINE)


@cache
def build_session_source(*modules: str) -> str:
    """Build source that defines the names of modules in the namespace that runs it.

    Args:
        *modules: Their files, below the package's folder, such as `in_session/streams.py`.

    Returns:
        Source for `exec`. It imports nothing of `cci_plugins`, which sessions do not have.
    """
    return "".join(
        f"exec(compile({part!r}, '<cci>', 'exec'), globals())\n" for part in _read(modules)
    )


@cache
def build_session_bytecode(*modules: str) -> dict[str, str]:
    """Build the same for a Python of this version, which need not compile it.

    Args:
        *modules: As for `build_session_source`.

    Returns:
        `magic`, the hex digits of the version of the bytecode, and `parts`, a marshalled tuple of
        code objects in base64. Run them in turn in one namespace.
    """
    parts = tuple(compile(part, "<cci>", "exec", dont_inherit=True) for part in _read(modules))
    packed = base64.b64encode(marshal.dumps(parts)).decode()
    return {"magic": importlib.util.MAGIC_NUMBER.hex(), "parts": packed}


def _read(modules: Iterable[str]) -> list[str]:
    package = Path(__file__).parents[1]
    texts = [(package / name).read_text(encoding="utf-8") for name in modules]
    return [_PACKAGE_IMPORT.sub("", text) for text in texts]
