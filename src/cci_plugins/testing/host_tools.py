"""Checks of host tools, for every pool that has them."""

from __future__ import annotations

from cci_plugins.common.limits import Limits
from cci_plugins.core.host_calls import HostCalls
from cci_plugins.core.host_tools import HostTool
from cci_plugins.models import Execution
from cci_plugins.pools.base import SessionPool

from .session_control import LIMIT, expect, run_code

_NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
    "required": ["a", "b"],
}


async def _run_with_tools(
    pool: SessionPool, session_id: str, code: str, tools: list[HostTool]
) -> tuple[Execution, HostCalls]:
    calls = HostCalls(tools, Limits(), code=code, session_key="check", session_id=session_id)
    return await pool.execute(session_id, code, timeout=LIMIT, tools=calls), calls


async def code_calls_host_tools(pool: SessionPool, session_id: str) -> None:
    """Check that code can call the host's tools, if the pool's capabilities promise it."""
    if pool.capabilities.host_tools is not True:
        return

    async def add(a: float, b: float) -> float:
        return a + b

    tools = [HostTool("add", "Add two numbers.", _NUMBERS, add)]
    code = (
        "import asyncio\nfirst = tools.add(1, b=2)\n"
        "more = await asyncio.gather(*(tools.acall('add', a=n, b=n) for n in range(3)))\n"
        "[first, *more]"
    )
    execution, calls = await _run_with_tools(pool, session_id, code, tools)
    expect(condition=execution.text == "[3, 0, 2, 4]", message=f"results {execution.text!r}")
    expect(condition=len(calls.records) == 4, message=f"{calls.records}")  # noqa: PLR2004
    after = await run_code(pool, session_id, "tools.add(1, 2)")
    expect(condition=after.error is not None, message="a later run without tools called one")


async def failed_tool_calls_are_exceptions(pool: SessionPool, session_id: str) -> None:
    """Check that code can catch what went wrong with a host tool, if the pool has them."""
    if pool.capabilities.host_tools is not True:
        return

    def fail(a: float, b: float) -> float:
        raise ValueError(f"no sum of {a} and {b}")

    code = (
        "def attempt(*arguments):\n    try:\n        return tools.fail(*arguments)\n"
        "    except Exception as error:\n        return f'{type(error).__name__}: {error}'\n"
        "print(attempt(1, 2))\nprint(attempt('x', 2))\n"
    )
    tools = [HostTool("fail", "Fail.", _NUMBERS, fail)]
    execution, _ = await _run_with_tools(pool, session_id, code, tools)
    lines = execution.stdout.splitlines()
    expect(condition=lines[:1] == ["ToolError: ValueError: no sum of 1 and 2"], message=str(lines))
    expect(condition=lines[1].startswith("ToolArgumentError: "), message=str(lines))
