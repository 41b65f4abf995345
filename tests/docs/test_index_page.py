"""A release has a README whose links work on an index page, and the project's addresses."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from .blocks import ROOT

ADDRESS = "https://github.com/example/cci-plugins"
IMAGE = '\n[![demo](docs/demo.png)](docs/demo.md)\n<img src="docs/a.svg"> [top](#install)\n'


def test_a_release_links_to_its_own_files(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8") + IMAGE
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
    script = ROOT / ".github" / "index_page.py"
    subprocess.run([sys.executable, script, f"{ADDRESS}/", "v1.2.3"], cwd=tmp_path, check=True)
    written = (tmp_path / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r'\]\(([^)]+)\)|(?:src|href)="([^"]+)"', written)
    assert all(re.match("https://|#", "".join(target)) for target in targets), targets
    assert f"[![demo]({ADDRESS}/raw/v1.2.3/docs/demo.png)]" in written
    assert f"({ADDRESS}/blob/v1.2.3/docs/demo.md)" in written
    assert f'<img src="{ADDRESS}/raw/v1.2.3/docs/a.svg"> [top](#install)' in written
    urls = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["urls"]
    assert urls["Repository"] == ADDRESS


def test_the_release_rewrites_both_files_before_it_builds() -> None:
    steps = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert steps.index("index_page.py") < steps.index("python -m build")
