"""Files in and out: upload, list, download, folders as zips, progress, and a link to share."""

import asyncio
import os
from pathlib import Path

from cci_plugins import CodeInterpreter

DATA = Path(__file__).with_name("data")
CODE = """
import csv, os
from collections import Counter

rows = list(csv.DictReader(open('penguins.csv')))
os.makedirs('tables', exist_ok=True)
for island, count in Counter(row['island'] for row in rows).items():
    with open(f'tables/{island}.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row for row in rows if row['island'] == island)
"""


async def main() -> None:
    async with CodeInterpreter.from_env() as interpreter:
        session = interpreter.session("alice")
        files = session.files

        sent = await files.upload(DATA / "penguins.csv", on_progress=lambda n: print(n, "bytes"))
        print(sent.name, "took the route", sent.route)
        print((await files.upload(DATA)).name, "is the folder as a zip")

        (await session.run_code(CODE)).raise_for_error()
        for file in await files.list():
            print(f"{file.size:8,} {file.name}")
        print("saved", await files.download("tables/Dream.csv", to="out/", overwrite=True))
        print("saved", await files.download("tables", to="out/tables.zip", overwrite=True))

        if "AZURE_STORAGE_CONTAINER" in os.environ:  # with AZURE_STORAGE_ACCOUNT
            shared = await files.share("tables/Dream.csv")
            print("for a person, until", shared.expires_at, shared.url.reveal())


asyncio.run(main())
