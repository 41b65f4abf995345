"""Make README.md and pyproject.toml fit for an index page, before a release is built.

An index shows the README without the repository around it, so relative links would lead nowhere.
The repository's address is known only where a release is built, and is named nowhere else:

    python .github/index_page.py https://github.com/OWNER/NAME v1.2.3
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_IMAGE = re.compile(r"(?P<before>!\[[^\]]*\]\()(?!https?:|#)")
_LINK = re.compile(r"(?P<before>\]\()(?!https?:|#)")
_SOURCE = re.compile(r'(?P<before>\bsrc(set)?=")(?!https?:|#)')
_REFERENCE = re.compile(r'(?P<before>\bhref=")(?!https?:|#)')


def make_links_absolute(readme: str, address: str, tag: str) -> str:
    """Return the README with links to the files of a release."""
    for kind, pattern in (
        ("raw", _IMAGE),  # before links, which may contain images
        ("raw", _SOURCE),
        ("blob", _LINK),
        ("blob", _REFERENCE),
    ):
        readme = pattern.sub(rf"\g<before>{address}/{kind}/{tag}/", readme)
    return readme


def add_urls(pyproject: str, address: str, tag: str) -> str:
    """Return the project's metadata with its addresses."""
    urls = {
        "Repository": address,
        "Documentation": f"{address}/blob/{tag}/docs/index.md",
        "Changelog": f"{address}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }
    lines = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return pyproject.replace("\n[project.scripts]", f"\n[project.urls]\n{lines}\n[project.scripts]")


def main(address: str, tag: str) -> None:
    """Rewrite both files in the current folder."""
    for name, rewrite in (("README.md", make_links_absolute), ("pyproject.toml", add_urls)):
        path = Path(name)
        text = path.read_text(encoding="utf-8")
        path.write_text(rewrite(text, address.rstrip("/"), tag), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
