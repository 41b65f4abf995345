"""The command line `cci`. Its modules are loaded only when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: Arguments after the command's name, or None for those of `sys.argv`.
    """
    try:
        from .app import start
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("cci_plugins"):
            raise
        sys.stderr.write(f"error: the command line needs {missing.name}\n\n")
        sys.stderr.write('hint: pip install "cci-plugins[cli]"\n')
        sys.exit(3)
    sys.exit(start(arguments))
