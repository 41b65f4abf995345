"""Packages for a Python of another machine: the platforms, and wheels made of what is unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("packaging")

from cci_plugins.core.remote_packages import _check_versions, write_wheels
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.local.packages.python_info import list_target_options
from cci_plugins.pools.package_exchange import PythonInfo
from cci_plugins.pools.package_pools import PackageOptions

LINUX = PythonInfo.model_validate(
    {
        "implementation": "cpython",
        "version": "3.12.4",
        "system": "linux",
        "machine": "x86_64",
        "libc": ["glibc", "2.36"],
        "freeThreaded": False,
    }
)


@pytest.mark.parametrize(
    ("changes", "platform"),
    [
        ({}, "x86_64-manylinux_2_36"),
        ({"machine": "aarch64", "libc": ["glibc", "2.41"]}, "aarch64-manylinux_2_40"),
        ({"libc": ["glibc", "2.30"]}, "x86_64-manylinux_2_28"),
        ({"libc": ["", ""]}, "x86_64-unknown-linux-musl"),
        ({"system": "darwin", "machine": "arm64"}, "aarch64-apple-darwin"),
        ({"system": "win32", "machine": "AMD64"}, "x86_64-pc-windows-msvc"),
    ],
)
def test_uv_is_asked_for_the_platform_of_the_session(
    changes: dict[str, Any], platform: str
) -> None:
    options = list_target_options(LINUX.model_copy(update=changes))
    assert options == ("--python-version", "3.12.4", "--python-platform", platform)


@pytest.mark.parametrize(
    "changes",
    [
        {"implementation": "pypy"},
        {"free_threaded": True},
        {"machine": "riscv64"},
        {"system": "emscripten"},
        {"libc": ["glibc", "2.5"]},
        {"libc": ["glibc", "odd"]},
    ],
)
def test_a_python_that_uv_does_not_know_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="no packages can be downloaded for"):
        list_target_options(LINUX.model_copy(update=changes))


def test_what_a_server_says_it_has_adds_no_line_for_the_installer() -> None:
    told = {
        "Ipykernel": "7.0",
        "odd": "1\n--index-url http://evil",
        "x\n--index-url http://evil": "1",
        "ours": "1.0+local",
    }
    assert _check_versions(told) == {"ipykernel": "7.0", "ours": "1.0+local"}


def test_unpacked_packages_become_wheels_by_their_own_records(tmp_path: Path) -> None:
    packages, wheels = tmp_path / "packages", tmp_path / "wheels"
    info = packages / "Some_Name-1.0.0.dist-info"
    for folder in (info, packages / "bin", wheels):
        folder.mkdir(parents=True)
    (packages / "some.py").write_text("VALUE = 1\n")
    (packages / "other.py").write_text("of no package")
    (tmp_path / "outside").write_text("secret")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Some.Name\nVersion: 1.0.0\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nTag: cp312-abi3-linux_x86_64\n")
    record = ("some.py", "../outside", "gone.py", "Some_Name-1.0.0.dist-info/WHEEL")
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in record))
    (wheel,) = write_wheels(packages, wheels)
    assert wheel.name == "some_name-1.0.0-cp312-abi3-linux_x86_64.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert sorted(archive.namelist()) == ["Some_Name-1.0.0.dist-info/WHEEL", "some.py"]


def test_the_password_of_an_index_is_not_shown() -> None:
    options = PackageOptions("https://user:planted-password@example.com/simple")
    assert "planted-password" not in repr(options)
