"""The check of isolation reports what bounds the memory of a session."""

from __future__ import annotations

from unittest.mock import AsyncMock, Mock

import pytest

from cci_plugins.doctor import machine

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("parent", "expected"),
    [(None, "not by a memory cgroup"), (Mock(), "bound by a memory cgroup")],
)
async def test_the_check_of_isolation_reports_whether_sessions_have_a_memory_cgroup(
    parent: object, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "find_cgroup_parent", lambda: parent)
    interpreter = Mock(describe=AsyncMock(return_value="local pool: bwrap 0.8"))
    context = Mock(is_local=True, open_interpreter=AsyncMock(return_value=interpreter))
    outcome = await machine._check_isolation(context)
    assert expected in outcome.message
