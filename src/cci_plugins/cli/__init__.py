"""The command line `cci`. Its modules are loaded only when it runs."""

from __future__ import annotations

import gc
import sys

TYPE_CHECKING = False  # that of `typing`, so that little is loaded before `main` handles Ctrl-C
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

# Python's 700 would search for garbage again and again while modules are loaded, which make none.
_NEW_OBJECTS = 20_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: Arguments after the command's name, or None for those of `sys.argv`.
    """
    gc.set_threshold(_NEW_OBJECTS)
    try:
        from .interrupts import defer_interrupt, ignore_interrupt

        with defer_interrupt():
            from .app import start

        code = start(arguments)
        ignore_interrupt()  # another Ctrl-C does not disturb the end
    except KeyboardInterrupt:  # outside the command
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("cci_plugins"):
            raise
        sys.stderr.write(f"error: the command line needs {missing.name}\n\n")
        sys.stderr.write('hint: pip install "cci-plugins[cli]"\n')
        sys.exit(3)
    sys.exit(code)
