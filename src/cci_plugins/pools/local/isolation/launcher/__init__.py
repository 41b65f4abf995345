"""Programs that start a kernel in its sandbox (standard library and ipykernel only)."""

from pathlib import Path

LAUNCHER = Path(__file__).parent
