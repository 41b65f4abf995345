"""`python -m cci_plugins`: the same as the command `cci`."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
