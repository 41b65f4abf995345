"""A package of your own, installed into a session that has no network."""

import asyncio
import tempfile
from pathlib import Path
from zipfile import ZipFile

from cci_plugins import CodeInterpreter, LocalSessionPool

MODULE = "def to_pounds(grams):\n    return round(grams / 453.59237, 1)\n"
METADATA = "Metadata-Version: 2.1\nName: penguin-units\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
CODE = "from penguin_units import to_pounds\nto_pounds(5076)"


def build_wheel(folder: str) -> None:
    """Build the package. In your own project, `uv build` or `pip wheel` does it."""
    info = "penguin_units-1.0.dist-info"
    files = {"penguin_units.py": MODULE, f"{info}/METADATA": METADATA, f"{info}/WHEEL": WHEEL}
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with ZipFile(Path(folder) / "penguin_units-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)


async def main() -> None:
    with tempfile.TemporaryDirectory() as wheels:
        build_wheel(wheels)
        pool = LocalSessionPool(package_index=wheels, allowed_packages=["penguin-units"])
        async with CodeInterpreter(pool) as interpreter:
            session = interpreter.session("alice")
            print(*(await session.run_code("%pip install penguin-units")).notes)
            print("installed", await session.install("penguin-units>=1"))
            execution = (await session.run_code(CODE)).raise_for_error()
            print("a penguin of 5,076 g has", execution.text, "pounds")


asyncio.run(main())
