"""Warnings are visible in a program that has not set up logging, with their hint, once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# They run one after another in one process, because Semantic Kernel loads slowly.
PROGRAMS = (
    (  # conversations that are mixed
        """
        plugin = CodeInterpreterPlugin(CodeInterpreter(FakeSessionPool()))
        for _ in range(3):
            asyncio.run(plugin.execute_code("1"))
        """,
        (
            "no conversation was named, so all calls of this plugin share one session; "
            "use `interpreter.use_session(thread.id)`"
        ),
    ),
    (  # half a configuration
        """
        os.environ["AZURE_SESSION_POOL_MCP_ENDPOINT"] = "https://example.invalid/mcp"
        plugin = CodeInterpreterPlugin(session_key="alice")
        for _ in range(3):
            asyncio.run(plugin.execute_code("1"))
        del os.environ["AZURE_SESSION_POOL_MCP_ENDPOINT"]
        """,
        (
            "execute_code failed: ConfigurationError: "
            "AZURE_SESSION_POOL_MCP_KEY is not set, but the "
            "rest of a session pool's settings is; set AZURE_SESSION_POOL_MCP_KEY, or unset "
            "AZURE_SESSION_POOL_MCP_ENDPOINT to use the embedded pool"
        ),
    ),
    (  # a missing extra
        """
        sys.modules["jupyter_client"] = None
        plugin = CodeInterpreterPlugin(session_key="alice")
        for _ in range(3):
            asyncio.run(plugin.execute_code("1"))
        """,
        (
            "execute_code failed: ConfigurationError: "
            "the embedded pool needs jupyter_client.asynchronous; "
            'pip install "cci-plugins[local]"'
        ),
    ),
)
HEAD = """
    import asyncio, logging, os, sys
    from cci_plugins import CodeInterpreter
    from cci_plugins.semantic_kernel import CodeInterpreterPlugin
    from cci_plugins.testing import FakeSessionPool
"""
LOGGING = "logging.basicConfig(format='%(levelname)s %(message)s', level=logging.INFO)\n"


@pytest.mark.quick("by default")
@pytest.mark.parametrize("prefix", ["", "WARNING "], ids=["by default", "with logging"])
def test_a_warning_is_printed_once_with_its_hint(prefix: str, tmp_path: Path) -> None:
    programs = "".join(textwrap.dedent(program) for program, _ in PROGRAMS)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HEAD) + (LOGGING if prefix else "") + programs],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith(prefix)]
    assert [line for line in lines if "failed" in line or "conversation" in line] == [
        prefix + expected for _, expected in PROGRAMS
    ], done.stderr


def test_the_package_has_no_handler_of_its_own() -> None:
    source = "import logging, cci_plugins.core.interpreter as _; "
    source += "print(logging.getLogger('cci_plugins').handlers)"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, check=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n"
