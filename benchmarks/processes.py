"""Servers in separate processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def serving(*arguments: str, **variables: str) -> Iterator[tuple[str, str]]:
    """Run `cci serve` in a separate process, and yield its MCP endpoint and key."""
    command = [sys.executable, "-m", "cci_plugins", "serve", "--port", "0", "--json", *arguments]
    environment = os.environ | variables
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        try:
            yield ready["endpoint"], ready["key"]
        finally:
            process.terminate()
