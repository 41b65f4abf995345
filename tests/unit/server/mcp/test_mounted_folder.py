"""The folder that `cci mcp --mount` copies: what it holds, and its bounds."""

from pathlib import Path

import pytest

from cci_plugins import CodeInterpreter
from cci_plugins.errors import ConfigurationError
from cci_plugins.server.mcp import mounted_folder
from cci_plugins.server.mcp.mounted_folder import MountedFolder
from cci_plugins.testing import FakeSessionPool


def test_hidden_files_are_copied_only_on_request(tmp_path: Path) -> None:
    for name in (".env", "a.txt", "b/.c/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    assert [file.name for file in MountedFolder(tmp_path).files] == ["a.txt"]
    every = MountedFolder(tmp_path, with_hidden=True).files
    assert [file.name for file in every] == [".env", "a.txt", "b/.c/d.txt"]


@pytest.mark.parametrize("bound", ["MAX_FILES", "MAX_BYTES"])
def test_a_folder_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(mounted_folder, bound, 2)
    with pytest.raises(ConfigurationError, match="more than") as caught:
        MountedFolder(tmp_path)
    assert "name a smaller folder" in str(caught.value.hint)


def test_links_in_a_circle_and_odd_names_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "a\nb").write_text("1")
    (tmp_path / "ok").write_text("1")
    assert [file.name for file in MountedFolder(tmp_path).files] == ["ok"]


@pytest.mark.anyio
async def test_each_session_gets_the_files_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1")
    mounted = MountedFolder(tmp_path)
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        first, second = interpreter.session("first"), interpreter.session("second")
        await mounted.copy_into(first)
        (tmp_path / "a.txt").write_text("22")
        await mounted.copy_into(first)
        await mounted.copy_into(second)
        assert await first.files.download("a.txt") == b"1"
        assert await second.files.download("a.txt") == b"22"
