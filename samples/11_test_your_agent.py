"""A test of an agent that needs no sandbox and no network."""

import asyncio

from cci_plugins import CodeInterpreter, Execution
from cci_plugins.langchain import CodeInterpreterTool
from cci_plugins.testing import FakeSessionPool


async def test_the_tool_shows_what_was_printed() -> None:
    pool = FakeSessionPool(Execution(stdout="42\n"))
    async with CodeInterpreter(pool) as interpreter:
        tool = CodeInterpreterTool(interpreter=interpreter)
        assert await tool.ainvoke({"code": "print(6 * 7)"}) == "42"
    assert [code for _, code in pool.calls] == ["print(6 * 7)"]


asyncio.run(test_the_tool_shows_what_was_printed())
print("passed")
