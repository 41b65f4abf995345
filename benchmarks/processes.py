"""Servers in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def serving(*arguments: str, **variables: str) -> Iterator[tuple[str, str]]:
    """A `cci serve` of its own process; gives its MCP address and key."""
    command = [sys.executable, "-m", "cci_plugins", "serve", "--port", "0", "--json", *arguments]
    environment = os.environ | variables
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        try:
            yield ready["endpoint"], ready["key"]
        finally:
            process.terminate()
