"""Compile to bytecode what kernels import, once for each environment."""

import compileall
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

WHOLE = ("IPython", "comm", "debugpy", "ipykernel", "jupyter_client", "jupyter_core", "traitlets")
IMPORTED = ("ipykernel.ipkernel", "ipykernel.kernelapp", "matplotlib.pyplot", "pandas")


def main() -> None:
    for name in WHOLE:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            compileall.compile_dir(Path(found.origin).parent, quiet=1)
    here = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for name in IMPORTED:
        subprocess.run([sys.executable, "-c", f"import {name}"], env=here, check=False)


if __name__ == "__main__":
    main()
