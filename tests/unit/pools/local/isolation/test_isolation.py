"""Tests of the isolation backends that start no sandbox."""

# ruff: noqa: PTH101, PTH102, PTH109, PTH211 - a folder too deep for Path

import json
import os
import sys
from itertools import pairwise

import anyio
import pytest

if sys.platform == "win32":
    pytest.skip("these backends do not exist on Windows", allow_module_level=True)

from pathlib import Path

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.errors import IsolationError
from cci_plugins.pools.local.isolation import KernelSpec, interpreter, seatbelt, self_check, uids
from cci_plugins.pools.local.isolation.bubblewrap.backend import Bubblewrap
from cci_plugins.pools.local.isolation.interpreter import Interpreter
from cci_plugins.pools.local.isolation.kernel_config import (
    SandboxOptions,
    build_connection_info,
    build_environment,
    describe_session,
)
from cci_plugins.pools.local.isolation.launcher import supervisor

PYTHON = Interpreter("/tmp/venv/bin/python", ("/opt/base", "/tmp/venv"))


def build_command(version=(0, 8, 0), uid=None):
    bwrap = Bubblewrap("/usr/bin/bwrap", version)
    return bwrap.build_command(
        PYTHON, SandboxLimits(), uid=uid, files={"/run/cci/boot.py": 5}, info=3, program=4
    )


def pairs(argv):
    return list(pairwise(argv))


def test_bwrap_unshares_everything_and_drops_all_rights():
    argv = build_command()
    for flag in ("user", "ipc", "pid", "uts", "net"):
        assert f"--unshare-{flag}" in argv
    assert ("--cap-drop", "ALL") in pairs(argv)
    assert {"--die-with-parent", "--new-session", "--clearenv", "--disable-userns"} <= set(argv)
    assert ("--ro-bind", "/proc/sys") in pairs(argv)
    assert argv[argv.index("--") - 4 : argv.index("--")] == [
        "--remount-ro", "/dev", "--remount-ro", "/"
    ]  # fmt: skip


def test_bwrap_binds_nothing_of_the_host_writable():
    argv = build_command()
    assert "--bind" not in argv
    assert "--dev-bind" not in argv
    bound = {after for flag, after in pairs(argv) if flag == "--ro-bind"}
    assert {"/usr", "/opt/base", "/tmp/venv"} <= bound
    assert not bound & {"/", "/home", "/root", "/etc", "/run", "/var"}


def test_mounts_over_tmp_come_before_an_interpreter_in_tmp():
    argv = build_command()
    assert pairs(argv).index(("--tmpfs", "/tmp")) < pairs(argv).index(("--ro-bind", "/tmp/venv"))


def test_real_root_keeps_only_the_capabilities_to_change_its_user():
    argv = build_command(uid=20_001)
    assert "--unshare-user" not in argv
    assert [b for a, b in pairs(argv) if a == "--cap-add"] == ["CAP_SETUID", "CAP_SETGID"]


def test_an_old_bubblewrap_gets_only_flags_that_it_supports():
    assert "--size" in build_command((0, 7, 0))
    assert "--disable-userns" not in build_command((0, 7, 0))
    assert "--size" not in build_command((0, 6, 1))


def test_a_session_inherits_no_environment_variable(monkeypatch):
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "x")
    values = build_environment("/home/session", "/tmp", "/usr/bin/python3")
    assert "AZURE_CLIENT_SECRET" not in values
    assert values["PATH"].startswith("/usr/bin:")
    assert values["MPLBACKEND"] == "module://matplotlib_inline.backend_inline"


def test_the_key_is_in_the_session_file_and_not_in_the_repr():
    spec = KernelSpec(python=Path("/usr/bin/python3"), key="feed")
    assert "feed" not in repr(spec)
    text = describe_session(
        spec,
        SandboxOptions(),
        kernel_connection=build_connection_info("/run/k/k", "feed"),
        connection_file="/x",
    )
    payload = json.loads(text)
    assert payload["connection"]["key"] == "feed"
    assert payload["connection"]["hb_port"] == 5
    assert payload["limits"]["CORE"] == 0


def test_a_seatbelt_profile_denies_by_default_and_names_the_session():
    text = seatbelt.build_profile("/private/tmp/cci-x", ("/opt/venv", '/odd"name'))
    assert text.startswith("(version 1)\n(deny default)")
    assert '(subpath "/opt/venv")' in text
    assert r'(subpath "/odd\"name")' in text
    writes = text[text.index("(allow file-write*") :]
    assert '(subpath "/private/tmp/cci-x/data")' in writes
    assert "/opt/venv" not in writes
    assert "process-fork" not in text
    assert "network-outbound" not in text
    assert text.count("(") == text.count(")")


def test_a_folder_is_removed_at_any_depth_and_mode(tmp_path):
    base = tmp_path / "session"
    base.mkdir()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    here = os.getcwd()
    try:
        os.chdir(base)
        for _ in range(1500):
            os.mkdir("deep")
            os.chdir("deep")
        os.mkdir("closed")
        Path("closed/file").write_text("x")
        os.chmod("closed", 0)
        os.symlink(kept, "link")
    finally:
        os.chdir(here)
    supervisor.remove_folder(str(base))
    assert not base.exists()
    assert (kept / "file").exists()
    supervisor.remove_folder(str(base))


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock exists on Linux only")
@pytest.mark.parametrize(("user", "oldest"), [(1000, 6), (0, 3)])
def test_signals_need_a_scope_only_where_sessions_share_a_user(monkeypatch, user, oldest):
    from cci_plugins.pools.local.isolation import landlock, selection

    monkeypatch.setattr(os, "geteuid", lambda: user)
    backends = selection._list_backends(automatic=True)
    assert backends["landlock"](SandboxLimits())._oldest_abi == oldest
    monkeypatch.setattr(landlock, "_detect_abi", lambda: oldest - 1)
    spec = KernelSpec(Path(sys.executable), "00")
    with pytest.raises(IsolationError, match=f"older than {oldest}"):
        anyio.run(backends["landlock"](SandboxLimits()).run_self_check, spec)


def test_no_two_live_sessions_have_the_same_user_id():
    first, second = uids.allocate(), uids.allocate()
    try:
        assert first != second
        assert uids.FIRST <= first < uids.LAST
    finally:
        uids.release(first)
        uids.release(second)
    uids.release(None)
    assert uids.allocate() == first
    uids.release(first)


def test_an_interpreter_whose_folder_contains_the_home_folder_is_refused():
    with pytest.raises(IsolationError, match="contains your home folder"):
        interpreter._refuse_homes((str(Path.home()),))
    with pytest.raises(IsolationError, match="contains your home folder"):
        interpreter._refuse_homes(("/",))


def test_only_folders_outside_usr_are_bound():
    assert interpreter._find_folders_outside_usr(["/usr", "/usr/bin", "/usr/local"]) == ()
    assert interpreter._find_folders_outside_usr(["/opt/a", "/opt/a/bin"]) == ("/opt/a",)


def test_a_private_parent_folder_makes_an_interpreter_unreachable(tmp_path):
    closed = tmp_path / "closed"
    (closed / "python").mkdir(parents=True)
    closed.chmod(0o700)
    assert not interpreter.is_reachable_by_anyone(str(closed / "python"))
    assert interpreter.is_reachable_by_anyone("/usr/bin")


def test_a_user_without_an_account_and_home_has_no_home_folder(monkeypatch):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    assert interpreter.find_home() is None
    interpreter._refuse_homes(("/",))
    assert self_check._list_home_entries(PYTHON) == []


def test_of_the_root_folder_as_home_only_what_sessions_cannot_read_is_checked(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    entries = self_check._list_home_entries(PYTHON)
    assert not {"/usr", "/etc", "/tmp", "/proc"} & set(entries)


def test_a_namespace_without_ids_for_sessions_is_noticed(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(uids, "_read_map", lambda _: ((0, 1),))
    assert not uids.can_allocate()
    with pytest.raises(IsolationError, match="no user id"):
        uids.allocate()
    monkeypatch.setattr(uids, "_read_map", lambda _: ((0, 1), (1, 65536)))
    assert uids.can_allocate()


def test_only_folders_with_installed_packages_are_added(tmp_path):
    packages, source = tmp_path / "packages", tmp_path / "source"
    (packages / "x-1.dist-info").mkdir(parents=True)
    source.mkdir()
    path = ["", str(source), str(packages), "/no/such"]
    assert interpreter._find_package_folders(path, []) == (str(packages),)
    assert interpreter._find_package_folders(path, [str(packages)]) == ()


@pytest.mark.skipif(sys.platform == "win32", reason="needs modes of folders")
def test_odd_entries_of_the_path_are_left_out(tmp_path, monkeypatch):
    packages = tmp_path / "packages"
    (packages / "x-1.dist-info").mkdir(parents=True)
    path = [5, None, b"/tmp", tmp_path, "x" * 5000, "/etc/passwd", str(packages)]
    assert interpreter._find_package_folders(path, []) == (str(packages),)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert interpreter._find_package_folders(["/private/packages"], []) == ()
