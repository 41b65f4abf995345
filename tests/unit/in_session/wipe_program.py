"""Runs the session agent where `/mnt/data` cannot be used. Its working directory holds files."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from cci_plugins.in_session import program_support, session_agent

MARKER = "0123456789abcdef" * 2


class Output:
    """Standard output that keeps the answers."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        """Keep text."""
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Do nothing."""


def refuse(**_: Any) -> str:
    """Refuse to make a folder."""
    raise FileNotFoundError


def main() -> None:
    """Print what a session sees before and after its end."""
    program_support.FOLDER = Path(sys.argv[1])
    if "NO_FOLDERS" in os.environ:
        program_support.tempfile.mkdtemp = refuse
    shell = InteractiveShell.instance()
    real, sys.stdout = sys.stdout, Output()  # type: ignore[assignment]
    output: Any = sys.stdout

    def call(verb: str, **arguments: Any) -> dict[str, Any]:
        output.text = ""
        job = {"verb": verb, **arguments}
        session_agent.main(shell, MARKER, job)
        found = re.search(rf"{MARKER}(\{{.*?\}})\n", output.text)
        assert found is not None, output.text
        fields: dict[str, Any] = json.loads(found[1])
        return fields

    def run(name: str, code: str) -> None:
        call("run", run=name, code=code, timeout=60.0, max_chars=1000, instance=None)

    run("a", "import os; x = 1; open('mine.txt', 'w').write('1'); os.makedirs('deep/er')")
    run("b", f"os.symlink({os.environ['PRECIOUS']!r}, 'link'); print(os.getcwd())")
    first = Path(str(shell.user_ns["os"].getcwd()))
    inside = sorted(path.name for path in first.iterdir())
    code = os.environ.get("BEFORE_WIPE")
    if code:
        run("c", code)
    call("wipe")
    session_agent.get_agent.cache_clear()  # as a new copy of the agent, which is sent again
    run("d", "fresh = 'x' not in globals()")
    second = Path.cwd()
    real.write(
        json.dumps(
            {
                "folder": str(first),
                "inside": inside,
                "fresh": shell.user_ns.get("fresh"),
                "again": str(second),
                "left": sorted(path.name for path in second.iterdir()),
            }
        )
    )


main()
