"""Limits of sessions that share one container."""

import pytest

from cci_plugins.common.limits import MIB, SandboxLimits
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.local import container

GIB = 1024 * MIB


def test_a_quantity_is_read_as_kubernetes_writes_it() -> None:
    for text, size in (("2Gi", 2 * GIB), ("2.0Gi", 2 * GIB), ("512Mi", 512 * MIB), ("1G", 10**9)):
        assert container.parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "two", "0Gi", "-1Gi", "2GiB"])
def test_what_is_not_a_quantity_is_refused_with_its_value(text) -> None:
    with pytest.raises(ConfigurationError, match="is not an amount of memory"):
        container.parse_memory(text)


def test_something_is_left_for_the_server_and_the_ready_kernels(monkeypatch) -> None:
    monkeypatch.setattr(container, "read_cgroup_memory", lambda: None)
    total = container.compute_total_memory("2Gi", 1)
    assert 1.5 * GIB < total < 2 * GIB - 176 * MIB  # 176 MiB: the measured server and kernel
    assert container.compute_total_memory("2Gi", 3) < total
    assert container.compute_total_memory("128Mi", 1) > 0


def test_a_smaller_cgroup_counts(monkeypatch, tmp_path) -> None:
    file = tmp_path / "memory.max"
    file.write_text("1073741824\n")
    assert container.read_cgroup_memory((str(file),)) == GIB
    file.write_text("max\n")
    assert container.read_cgroup_memory((str(file),)) is None
    assert container.read_cgroup_memory((str(tmp_path / "none"),)) is None
    monkeypatch.setattr(container, "read_cgroup_memory", lambda: GIB)
    assert container.compute_total_memory("4Gi", 1) < GIB


def test_memory_address_space_and_threads_follow_the_container() -> None:
    small, large = (container.compute_limits(size * GIB, size) for size in (1, 8))
    assert small.memory_bytes == GIB
    assert large.memory_bytes == 8 * GIB
    assert large.address_space_bytes == 16 * GIB
    assert small.disk_bytes + small.scratch_bytes < small.memory_bytes
    assert (small.threads, large.threads) == (1, 8)
    assert container.compute_limits(None, 0.25).threads == 1
    assert container.compute_limits(None, None) == SandboxLimits()
