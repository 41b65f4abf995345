"""A conversation that stops and goes on the next day, in another process."""

import subprocess
import sys
from pathlib import Path

from cci_plugins.sync import CodeInterpreter

DATA = Path(__file__).with_name("data") / "penguins.csv"
LOAD = "import csv\nrows = list(csv.DictReader(open('penguins.csv')))\nlen(rows)"
WRITE = "open('gentoo.txt', 'w').write(str(sum(row['species'] == 'Gentoo' for row in rows)))"
GO_ON = "f\"{open('gentoo.txt').read()} of {len(rows)} penguins are Gentoo\""


def stop() -> str:
    """Work on the first day, and return the path of the checkpoint."""
    with CodeInterpreter.from_env() as interpreter:
        session = interpreter.session("alice")
        session.files.upload(DATA)
        for code in (LOAD, WRITE):
            session.run_code(code).raise_for_error()
        checkpoint = session.save(to="out/checkpoints")
        print("saved", [file.name for file in checkpoint.files])
        return checkpoint.location


def go_on(checkpoint: str) -> None:
    """Restore the files, and run the first cell again for its variables."""
    with CodeInterpreter.from_env() as interpreter:
        session = interpreter.session("alice")
        session.restore(checkpoint, replay=[1])
        execution = session.run_code(GO_ON).raise_for_error()
        print(*execution.notes, execution.text, sep="\n")


if len(sys.argv) > 1:
    go_on(sys.argv[1])
else:
    path = stop()
    print("the next day:", *(command := [sys.executable, __file__, path]), flush=True)
    subprocess.run(command, check=True)  # noqa: S603 - this program itself
