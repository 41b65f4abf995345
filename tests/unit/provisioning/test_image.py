"""The same files give the same build context."""

from __future__ import annotations

import io
import tarfile
import tomllib
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from cci_plugins.errors import ConfigurationError
from cci_plugins.provisioning import image, wheel
from cci_plugins.provisioning.image import build_context
from cci_plugins.provisioning.requirements import read_requirements

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


def test_the_tag_depends_on_the_content_and_not_on_the_compression(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = build_context(None)
    monkeypatch.setattr(image, "_pack_archive", lambda files: b"another zlib")
    assert build_context(None).tag == first.tag


def test_files_that_requirements_include_are_packed(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "requirements.txt").write_text("-r more/other.txt\npolars\n")
    (tmp_path / "more" / "other.txt").write_text("--requirement=last.txt\nseaborn  # plots\n")
    (tmp_path / "more" / "last.txt").write_text("-r ../requirements.txt\nipykernel==7.4.0\n")
    text = read_requirements(tmp_path / "requirements.txt").decode()
    assert text == "ipykernel==7.4.0\nseaborn  # plots\npolars\n"


@pytest.mark.parametrize(
    "line",
    [
        "./wheels/mine-1.0-py3-none-any.whl",
        "mine-1.0-py3-none-any.whl",
        "mine @ file:///home/me/mine",
        "-e .",
        "-c constraints.txt",
        "--find-links wheels",
        "C:\\wheels\\mine.whl",
    ],
)
def test_what_is_only_on_this_machine_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(f"polars\n{line}\n")
    with pytest.raises(ConfigurationError, match="line 2") as caught:
        build_context(path)
    assert "--image" in str(caught.value.hint)


@pytest.mark.parametrize(
    "line",
    [
        "mine @ https://example.org/mine-1.0-py3-none-any.whl",
        "--index-url https://pypi.example.org/simple",
        "--extra-index-url=https://pypi.example.org/simple",
        "polars[pandas]==1.32.3 ; python_version > '3.10'",
        "-r https://example.org/requirements.txt",
    ],
)
def test_what_a_build_elsewhere_can_install_is_kept(tmp_path: Path, line: str) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(f"{line}\n")
    assert line in read_requirements(path).decode()


def test_an_installed_package_is_sent_as_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    package, meta = site / "cci_plugins", site / "cci_plugins-1.0.dev1+gabc.dist-info"
    (package / "infra" / "container").mkdir(parents=True)
    meta.mkdir()
    (package / "__init__.py").write_text("")
    (package / "infra" / "container" / "Dockerfile").write_text("FROM x")
    (meta / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: cci-plugins\nVersion: 1.0.dev1+gabc\n"
    )
    (meta / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (meta / "RECORD").write_text(
        "cci_plugins/__init__.py,,\ncci_plugins-1.0.dev1+gabc.dist-info/METADATA,,\n"
    )
    monkeypatch.setattr(image.cci_plugins, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(wheel, "distribution", lambda _: PathDistribution(meta))
    context = build_context(None)
    path = context.arguments["PACKAGE"]
    assert path == "./wheels/cci_plugins-1.0.dev1+gabc-py3-none-any.whl"
    with tarfile.open(fileobj=io.BytesIO(context.archive), mode="r:gz") as archive:
        member = archive.extractfile(path.removeprefix("./"))
        assert member is not None
        with zipfile.ZipFile(io.BytesIO(member.read())) as packed:
            names = packed.namelist()
    assert {"cci_plugins/__init__.py", f"{meta.name}/METADATA", f"{meta.name}/RECORD"} <= set(names)
    assert build_context(None).tag == context.tag
