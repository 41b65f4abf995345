"""The command `cci` in the tests' own process, which is quicker than a new one by a second."""

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from cci_plugins.cli import app


def run_command(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> tuple[int, str, str]:
    """Run a command with this environment alone. Return exit code, stdout and stderr.

    It may run in a thread, but only one at a time: the environment belongs to the process.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        patch.dict(os.environ, environment, clear=True),
        chdir(folder),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = app.start(arguments)
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return int(code), texts[0], texts[1]
