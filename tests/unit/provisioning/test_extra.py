"""The extra `provision` is optional and loaded late."""

from __future__ import annotations

import subprocess
import sys


def test_without_the_extra_the_error_names_the_package_to_install() -> None:
    code = (
        "import sys; sys.modules['azure.mgmt.appcontainers.aio'] = None\n"
        "from cci_plugins.cli import main; main(['provision', 'show', '-g', 'group'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert done.stderr == (
        "error: provisioning needs azure.mgmt.appcontainers.aio\n\n"
        'hint: pip install "cci-plugins[provision]"\n'
    )


def test_the_command_line_imports_azure_only_when_needed() -> None:
    code = (
        "import sys; from cci_plugins.cli import app\n"
        "print([name for name in sys.modules if name.startswith(('azure', 'aiohttp'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"
