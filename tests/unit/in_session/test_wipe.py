"""Wiping a session empties `/mnt/data` or a folder that was made for it, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("wipe_program.py")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a working directory with files that must stay."""
    folder = tmp_path / "work"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "config").write_text("precious")
    (folder / "thesis.txt").write_text("precious")
    return folder


def wipe(usual: Path, work: Path, prefix: Sequence[str] = (), **variables: str) -> dict[str, Any]:
    """Run code in a session, wipe it and run code again. Return what was seen."""
    scratch = work.parent / "scratch"
    scratch.mkdir()
    environment = os.environ | {"TMPDIR": str(scratch), "PRECIOUS": str(work)} | variables
    command = [*prefix, sys.executable, str(PROGRAM), str(usual)]
    run = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    assert (work / "thesis.txt").read_text() == "precious"
    assert (work / ".git" / "config").read_text() == "precious"
    if "NO_FOLDERS" not in variables:
        assert sorted(path.name for path in work.iterdir()) == [".git", "thesis.txt"]
    return found


@pytest.mark.parametrize("usual", ["missing", "a file", "a link to the working directory"])
def test_a_session_without_the_usual_folder_works_in_one_of_its_own(
    usual: str, work: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "usual"
    if usual == "a file":
        folder.write_text("")
    elif usual != "missing":
        folder.symlink_to(work)
    found = wipe(folder, work)
    assert found["folder"].startswith(str(tmp_path / "scratch" / "cci-session-"))
    assert found["inside"] == ["deep", "link", "mine.txt"]
    assert found["fresh"] is True
    assert found["left"] == []


def test_the_usual_folder_is_emptied_but_no_link_in_it_is_followed(
    work: Path, tmp_path: Path
) -> None:
    usual = tmp_path / "usual"
    usual.mkdir()
    (usual / "old.txt").write_text("of this session")
    found = wipe(usual, work)
    assert found["folder"] == found["again"] == str(usual)
    assert found["inside"] == ["deep", "link", "mine.txt", "old.txt"]
    assert found["left"] == []


@pytest.mark.parametrize("usual", ["usual", "missing"])
def test_a_folder_that_was_exchanged_for_a_link_is_not_emptied(
    usual: str, work: Path, tmp_path: Path
) -> None:
    (tmp_path / "usual").mkdir()
    exchange = (
        "folder = os.getcwd(); os.chdir('/'); os.rename(folder, folder + '-old')\n"
        f"os.symlink({str(work)!r}, folder)"
    )
    assert wipe(tmp_path / usual, work, BEFORE_WIPE=exchange)["fresh"] is True


def test_a_working_directory_that_the_code_chose_is_not_emptied(work: Path, tmp_path: Path) -> None:
    found = wipe(tmp_path / "missing", work, BEFORE_WIPE=f"os.chdir({str(work)!r})")
    assert found["left"] == []


def test_a_session_that_can_make_no_folder_keeps_the_files_of_the_working_directory(
    work: Path, tmp_path: Path
) -> None:
    found = wipe(tmp_path / "missing", work, NO_FOLDERS="1")
    assert found["folder"] == found["again"] == str(work)
    assert found["fresh"] is True
    assert {".git", "thesis.txt"} < set(found["left"])


def test_a_folder_below_a_link_is_someone_elses(work: Path, tmp_path: Path) -> None:
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "home" / "data" / "keep").write_text("precious")
    (tmp_path / "mnt").symlink_to(tmp_path / "home")
    found = wipe(tmp_path / "mnt" / "data", work)
    assert found["folder"].startswith(str(tmp_path / "scratch" / "cci-session-"))
    assert (tmp_path / "home" / "data" / "keep").read_text() == "precious"


MOUNT = """
mount --bind "$1" "$2/share"
mount --bind "$1" "$2/plain/deep/a b"
shift 2
exec "$@"
"""


def test_what_is_mounted_in_the_usual_folder_stays(work: Path, tmp_path: Path) -> None:
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*own, "true"], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    usual, shared = tmp_path / "usual", tmp_path / "shared"
    for folder in (shared, usual / "share", usual / "plain" / "deep" / "a b"):
        folder.mkdir(parents=True)
    (shared / "keep").write_text("precious")
    (usual / "plain" / "old.txt").write_text("of this session")
    found = wipe(usual, work, prefix=[*own, "sh", "-ec", MOUNT, "sh", str(shared), str(usual)])
    assert (shared / "keep").read_text() == "precious"
    assert found["left"] == ["plain", "share"]
    assert not (usual / "plain" / "old.txt").exists()
