"""The command `cci`, run as `python -m cci_plugins`."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
