"""The same files give the same build context."""

from __future__ import annotations

import io
import tarfile
import tomllib
from pathlib import Path

import pytest

from cci_plugins.errors import ConfigurationError
from cci_plugins.provisioning.image import build_context

ROOT = Path(__file__).parents[3]


def test_the_same_files_give_the_same_image(tmp_path: Path) -> None:
    first, again = build_context(None), build_context(None)
    assert (first.tag, first.archive) == (again.tag, again.archive)
    packages = tmp_path / "requirements.txt"
    packages.write_text("polars\nipykernel==7.4.0\n")
    other = build_context(packages)
    assert other.tag != first.tag
    with tarfile.open(fileobj=io.BytesIO(other.archive), mode="r:gz") as archive:
        member = archive.extractfile("infra/container/requirements.txt")
        assert member is not None
        assert member.read() == packages.read_bytes()
        names = archive.getnames()
        assert "src/cci_plugins/__init__.py" in names
        wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
        for asked in wheel["targets"]["wheel"]["force-include"]:
            assert any(name == asked or name.startswith(f"{asked}/") for name in names), asked
        assert {(one.uid, one.mtime) for one in archive} == {(0, 0)}
        assert not any(".env" in name or ".git" in name for name in archive.getnames())
    with pytest.raises(ConfigurationError, match="cannot be read"):
        build_context(tmp_path / "missing.txt")
