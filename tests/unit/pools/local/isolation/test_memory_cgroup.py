"""Where a session's memory cgroup is created, in both versions, on folders that look like them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cci_plugins.pools.local.isolation.memory_cgroup import CgroupParent, iter_parents

MIB = 1024**2


def describe_mounts(version: int, root: str, place: Path) -> str:
    kind = "cgroup rw,memory" if version == 1 else "cgroup2 rw"
    name, options = kind.split()
    lines = [
        "31 23 0:28 / /sys rw,relatime - sysfs sysfs rw",
        f"35 31 0:32 {root} {place} rw,relatime shared:9 - {name} none {options}",
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("root", "own", "found"),
    [
        ("/", "/a/b", "a/b"),
        ("/", "/", ""),
        ("/a", "/a/b", "b"),
        ("/a/b", "/a/b", ""),
        ("/a", "/ab", None),
        ("/", "/missing", None),
    ],
)
def test_version_1_uses_the_own_cgroup_in_the_hierarchy_of_memory(
    tmp_path: Path, root: str, own: str, found: str | None
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    text = f"5:devices:/\n4:memory:{own}\n0::/x"
    parents = list(iter_parents(text, describe_mounts(1, root, tmp_path)))
    assert parents == ([] if found is None else [CgroupParent(tmp_path / found, 1)])


def delegate(folder: Path, controllers: str) -> None:
    (folder / "cgroup.subtree_control").write_text(controllers)
    (folder / "cgroup.procs").touch()


def test_version_2_uses_the_own_cgroup_or_the_one_above_if_memory_is_delegated(
    tmp_path: Path,
) -> None:
    own = tmp_path / "user" / "app.scope"
    own.mkdir(parents=True)
    mounts = describe_mounts(2, "/", tmp_path)

    def find() -> list[CgroupParent]:
        return list(iter_parents("0::/user/app.scope\n", mounts))

    assert find() == []
    delegate(tmp_path, "cpu memory")
    delegate(own, "")
    delegate(own.parent, "cpu pids")
    assert find() == []
    delegate(own.parent, "cpu memory pids\n")
    assert find() == [CgroupParent(own.parent, 2)]
    delegate(own, "memory")
    assert find()[0] == CgroupParent(own, 2)
    assert list(iter_parents("0::/\n", mounts)) == [CgroupParent(tmp_path, 2)]


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroup_has_a_limit_and_reports_what_the_kernel_killed(
    tmp_path: Path, version: int
) -> None:
    cgroup = CgroupParent(tmp_path, version).create(300 * MIB)
    values = {path.name: path.read_text() for path in cgroup.folder.iterdir()}
    full = str(300 * MIB)
    assert values == (
        {"memory.limit_in_bytes": full, "memory.memsw.limit_in_bytes": full}
        if version == 1
        else {"memory.max": full, "memory.swap.max": "0"}
    )
    events = cgroup.folder / ("memory.oom_control" if version == 1 else "memory.events")
    assert cgroup.find_excess() is None
    events.write_text("under_oom 0\noom_kill 0\n")
    assert cgroup.find_excess() is None
    events.write_text("oom 2\noom_kill 1\n")
    assert str(cgroup.find_excess()).startswith("it used 300 MiB of memory")


def test_only_cgroups_of_apps_that_have_ended_are_left_over(tmp_path: Path) -> None:
    for name in ("cci-1-ab", "cci-999999999-ab", "cci-x-ab", "other"):
        (tmp_path / name).mkdir()
    CgroupParent(tmp_path, 1).remove_leftovers()
    assert {path.name for path in tmp_path.iterdir()} == {"cci-1-ab", "cci-x-ab", "other"}
