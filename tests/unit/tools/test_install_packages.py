"""The tool `install_packages`, over a pool in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from cci_plugins import ApprovalRequest, CodeInterpreter, Decision, ToolOptions
from cci_plugins.errors import ConfigurationError
from cci_plugins.testing import FakeSessionPool
from cci_plugins.tools import execute_code, install_packages
from cci_plugins.tools.options import check_single_tool

pytestmark = pytest.mark.anyio
INSTALL = ToolOptions(install_packages=True)


class PackagePool(FakeSessionPool):
    """A pool that has every package but `absent`."""

    capabilities = replace(FakeSessionPool.capabilities, packages=True)

    def __init__(self) -> None:
        super().__init__()
        self.installed: list[tuple[str, ...]] = []

    async def install_packages(self, session_id: str, packages: Sequence[str]) -> Mapping[str, str]:
        del session_id
        if "absent" in packages:
            raise ConfigurationError("cannot install 'absent': nobody has it")
        self.installed.append(tuple(packages))
        return {name: "1.0" for name in packages if name != "there"}


async def test_the_model_reads_what_was_installed_and_why_not() -> None:
    pool = PackagePool()
    async with CodeInterpreter(pool) as interpreter:
        replies = [
            await install_packages.call(interpreter, given, session_key="a")
            for given in (["polars", "there"], ["there"], ["absent"], [], "polars", [1], ["x"] * 21)
        ]
    texts = [reply.text for reply in replies]
    assert texts[0] == "Installed: polars 1.0. The next run can import them."
    assert texts[1] == "Already installed: there."
    assert texts[2] == "The packages were not installed: cannot install 'absent': nobody has it."
    assert all(text.startswith("packages must be a list of 1 to 20 names") for text in texts[3:])
    assert [reply.failed for reply in replies] == [False, False, *[True] * 5]
    assert pool.installed == [("polars", "there"), ("there",)]
    assert pool.calls == []


@pytest.mark.parametrize(
    ("decision", "text"),
    [
        (Decision("allow"), "Installed: "),
        (Decision("allow", code="%pip install 'duckdb>=1'"), "Installed: "),
        (Decision("allow", code="1"), "The packages were not installed: the user changed the "),
        (Decision("deny"), "The packages were not installed: the user did not approve it."),
        (
            Decision("deny", reason="too large"),
            "The packages were not installed: the user did not approve it: too large.",
        ),
        (None, "The packages were not installed: the user did not approve it: nobody could be "),
    ],
)
async def test_the_approver_of_the_application_is_asked_first(
    decision: Decision | None, text: str
) -> None:
    asked: list[ApprovalRequest] = []

    async def approve(request: ApprovalRequest) -> Decision:
        asked.append(request)
        if decision is None:
            raise ValueError
        return decision

    pool = PackagePool()
    async with CodeInterpreter(pool, approve=approve) as interpreter:
        reply = await install_packages.call(interpreter, ["duckdb>=1"], session_key="a")
    assert reply.text.startswith(text)
    assert asked == [ApprovalRequest("%pip install 'duckdb>=1'", "a", packages=("duckdb>=1",))]
    assert len(pool.installed) == (not reply.failed)


async def test_a_pool_without_packages_is_refused_before_anybody_is_asked() -> None:
    async def approve(_: ApprovalRequest) -> Decision:
        raise AssertionError

    pool = FakeSessionPool()
    async with CodeInterpreter(pool, approve=approve) as interpreter:
        reply = await install_packages.call(interpreter, ["polars"])
        with pytest.raises(ConfigurationError, match="the pool 'fake' cannot install packages"):
            execute_code.check_options(INSTALL, interpreter)
    assert reply.text.startswith(
        "The packages were not installed: the pool 'fake' cannot install packages into a session"
    )
    assert pool.calls == []


def test_one_tool_alone_cannot_offer_packages() -> None:
    with pytest.raises(ConfigurationError, match="install_packages is a second tool"):
        check_single_tool(INSTALL)
