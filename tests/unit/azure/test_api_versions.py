"""Every API version of Azure is in one module."""

from __future__ import annotations

import re
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "src" / "cci_plugins"
CALLERS = ("azure", "files", "foundry", "pools", "provisioning", "doctor")
VERSION = re.compile(r"""["']20\d\d-\d\d-\d\d(?:-preview)?["']""")


def test_no_other_module_names_an_api_version() -> None:
    found = [
        f"{path.relative_to(SOURCE)}: {match[0]}"
        for folder in CALLERS
        for path in sorted((SOURCE / folder).rglob("*.py"))
        if path.name != "api_versions.py"
        for match in VERSION.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []
