"""The snapshots: current, readable, and what ships without them."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import tarfile
import tomllib
from typing import Any

import pytest

from cci_plugins.provisioning.image import build_context

from .snapshots import FOLDER, ROOT, SHAPES

SCRIPT = FOLDER / "build.py"


def script() -> Any:
    found = importlib.util.spec_from_file_location("snapshots_build", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_snapshots_are_of_these_templates() -> None:
    digest = (FOLDER / "digest.txt").read_text(encoding="utf-8")
    assert script().compute_digest() == digest, "run: make infra"


def test_the_digest_does_not_depend_on_line_endings(tmp_path: Any) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "main.bicep").write_bytes(b"param a string\n")
    unix = script().compute_digest(tmp_path)
    (tmp_path / "main.bicep").write_bytes(b"param a string\r\n")
    assert script().compute_digest(tmp_path) == unix
    (tmp_path / "main.bicep").write_bytes(b"param b string\n")
    assert script().compute_digest(tmp_path) != unix


def test_each_choice_has_a_snapshot_with_sorted_keys() -> None:
    assert sorted(path.name.partition(".")[0] for path in FOLDER.glob("*.snapshot.json")) == SHAPES
    for path in FOLDER.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
        assert "_generator" not in text  # it names the compiler's version


def test_without_a_compiler_the_check_says_that_it_skipped() -> None:
    source = (
        f"import sys; sys.argv = ['build.py', '--check']; sys.path.insert(0, {str(FOLDER)!r})\n"
        "import build; build.find_compiler = lambda: None; sys.exit(build.main(['--check']))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert "skipped" in done.stdout


def test_a_warning_of_the_compiler_and_a_stale_snapshot_fail_the_check(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script()
    infra = tmp_path / "infra"
    (infra / "snapshots").mkdir(parents=True)
    (infra / "main.bicep").write_text("output a string = 'x'\n")
    (infra / "snapshots" / "one.bicepparam").write_text("using '../main.bicep'\n")
    compiler = tmp_path / "bicep"
    compiler.write_text(
        "#!/bin/sh\n"
        f'case "$1" in lint) cat {tmp_path}/warning;;\n'
        '  build) echo \'{"b": 1, "a": 2}\';;\n'
        "  snapshot) echo '{}' > \"${2%.bicepparam}.snapshot.json\";;\nesac\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setattr(module, "INFRA", infra)
    monkeypatch.setattr(module, "FOLDER", infra / "snapshots")
    (tmp_path / "warning").write_text("")
    module.write(str(compiler))
    assert module.check(str(compiler)) == 0
    (infra / "snapshots" / "main.json").write_text("{}\n")
    assert module.check(str(compiler)) == 1
    assert "make infra" in capsys.readouterr().out
    (tmp_path / "warning").write_text("main.bicep(1,1) : Warning BCP037: no such property\n")
    assert module.check(str(compiler)) == 1
    assert "BCP037" in capsys.readouterr().out


def test_neither_the_image_nor_the_wheel_has_them() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored.index("**/snapshots") > ignored.index("!infra")
    with tarfile.open(fileobj=io.BytesIO(build_context(None).archive)) as archive:
        packed = archive.getnames()
    assert "infra/container/Dockerfile" in packed
    assert [name for name in packed if "snapshots" in name] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert all((ROOT / name).exists() for name in included)
    left_out = {path.name for path in (ROOT / "infra").iterdir()} - {
        name.removeprefix("infra/") for name in included
    }
    assert left_out == {"snapshots", "bicepconfig.json"}
