"""A pool whose code is a function of the test, which calls the host's tools."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from cci_plugins import Execution
from cci_plugins.errors import ToolCallError
from cci_plugins.testing import FakeSessionPool
from cci_plugins.testing.session_pools import FakeTools

Program = Callable[[FakeTools], Awaitable[Any]]


def pool_of(program: Program) -> FakeSessionPool:
    """Return a pool whose code is an async function of the host tools, and prints its result."""

    async def run(_: str, tools: FakeTools) -> Execution:
        return Execution(stdout=repr(await program(tools)))

    return FakeSessionPool(run)


async def failure(call: Awaitable[Any]) -> tuple[str, str]:
    """Return the kind and the text of the error that code gets."""
    try:
        return "returned", repr(await call)
    except ToolCallError as error:
        return error.kind, str(error)
