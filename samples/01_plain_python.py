"""Code, variables and files in a session. Run `pip install ".[local]"` in the checkout."""

import asyncio
from pathlib import Path

from cci_plugins import CodeInterpreter

DATA = Path(__file__).with_name("data") / "penguins.csv"


async def main() -> None:
    async with CodeInterpreter.local() as interpreter:
        session = interpreter.session("alice")

        await session.files.upload(DATA)
        await session.run_code("rows = open('penguins.csv').read().splitlines()[1:]")
        execution = await session.run_code(
            "open('count.txt', 'w').write(str(len(rows))); len(rows)"
        )

        print(execution.text)
        if execution.error:
            print(execution.error.traceback)
        for file in execution.files:
            print("saved", await session.files.download(file.name, to="out/", overwrite=True))


asyncio.run(main())
