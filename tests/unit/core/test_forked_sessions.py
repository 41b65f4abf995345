"""What an interpreter forgets and keeps in a forked child, and what is released for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cci_plugins import CodeInterpreter
from cci_plugins.core.session_host import _Leftovers
from cci_plugins.errors import PoolUnavailableError
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio


class Remote(FakeSessionPool):
    """A pool whose sessions outlive the program."""

    capabilities = replace(FakeSessionPool.capabilities, outlives_app=True)

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.ended: list[str] = []

    async def delete_session(self, session_id: str) -> None:
        if self.fails:
            raise PoolUnavailableError("it cannot be reached")
        self.ended.append(session_id)


@pytest.mark.parametrize("secret", [None, b"shared"])
async def test_a_child_has_a_pool_of_its_own_and_new_sessions_unless_they_are_shared(
    secret: bytes | None,
) -> None:
    pool = Remote()
    async with CodeInterpreter(pool, session_secret=secret) as interpreter:
        session = interpreter.session("alice")
        await session.files.upload(b"1", name="a.txt")
        await session.run_code("1")
        parents_id = session.id
        interpreter._directory.reset_after_fork()
        after = await session.run_code("2")
        assert (session.id == parents_id) == (secret is not None)
        assert any("forked" in note for note in after.notes) == (secret is None)
        assert [code for _, code in pool.calls] == ["1"]


async def test_sessions_of_a_forgotten_interpreter_end_unless_they_are_kept() -> None:
    for keeps, ended in ((False, ["a"]), (True, [])):
        pool = Remote()
        leftovers = _Leftovers(pool)
        leftovers.keeps_sessions = keeps
        leftovers.session_ids.add("a")
        await leftovers.aclose()
        assert pool.ended == ended


async def test_a_failure_to_end_them_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    leftovers = _Leftovers(Remote(fails=True))
    leftovers.session_ids.add("a")
    await leftovers.aclose()
    assert "did not end cleanly" in caplog.text
