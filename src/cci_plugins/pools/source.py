"""The source of modules that run inside of sessions, as they are sent there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_OURS = re.compile(r"^from cci_plugins[.\w]* import .*\n", re.MULTILINE)


@cache
def session_source(module: str) -> str:
    """Python that makes a module's names, with those of `inside`, in the namespace it runs in.

    Args:
        module: The module's file, below this package's folder: `local/prelude.py`.

    Returns:
        Source for `exec`; in a session there is no `cci_plugins` to import from.
    """
    here = Path(__file__).parent
    parts = [(here / name).read_text(encoding="utf-8") for name in ("inside.py", module)]
    return "".join(
        f"exec(compile({_OURS.sub('', part)!r}, '<cci>', 'exec'), globals())\n" for part in parts
    )
