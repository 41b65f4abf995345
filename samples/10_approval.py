"""An approver that asks you before code runs. It works with every framework."""

import asyncio

from models import run_sample

from cci_plugins import ApprovalRequest, CodeInterpreter, Decision, LocalSessionPool
from cci_plugins.langchain import CodeInterpreterTool


async def ask(request: ApprovalRequest) -> Decision:
    print(request.code)
    allowed = await asyncio.to_thread(input, "run it? [y/N] ") == "y"
    return Decision("allow" if allowed else "deny", reason=None if allowed else "the user refused")


async def main() -> None:
    async with CodeInterpreter(LocalSessionPool(), approve=ask) as interpreter:
        tool = CodeInterpreterTool(interpreter=interpreter)
        print(await tool.ainvoke({"code": "print(6 * 7)"}))


run_sample(main)
