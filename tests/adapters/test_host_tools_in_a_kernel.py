"""What code in a real session gets from a framework's tools: values, exceptions, denials."""

from __future__ import annotations

import pytest
from langchain_core.tools import tool

from cci_plugins import CodeInterpreter, Decision, ToolCallRequest
from cci_plugins.langchain import CodeInterpreterTool

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CODE = """
def get_error(call):
    try:
        return call()
    except Exception as error:
        return f"{[one.__name__ for one in type(error).__mro__[:3]]} {error}"

print(tools.find_orders("alice"), tools.find_orders(customer="bob", limit=1))
print(get_error(lambda: tools.find_orders("nobody")))
print(get_error(lambda: tools.find_orders(customer=7)))
print(get_error(lambda: tools.find_orders("alice", owner="me")))
print(get_error(lambda: tools.refund(amount=500)))
print(get_error(lambda: tools.refund(amount=5)))
print(get_error(lambda: tools.erase_all()))
"""


@tool
def find_orders(customer: str, limit: int = 10) -> list[int]:
    """Find the orders of a customer."""
    return {"alice": [20, 22], "bob": [7, 8]}[customer][:limit]


@tool
def refund(amount: int) -> str:
    """Pay an amount back."""
    return f"paid {amount}"


async def approve(request: ToolCallRequest) -> Decision:
    large = request.arguments["amount"] > 100
    return Decision("deny", reason="too much") if large else Decision("allow")


async def test_values_exceptions_denials_and_wrong_arguments_arrive_in_the_code(
    warm: CodeInterpreter,
) -> None:
    made = CodeInterpreterTool(
        interpreter=warm,
        tools=[find_orders, refund],
        needs_approval=["refund"],
        approve_tool=approve,
    )
    call = {"type": "tool_call", "id": "1", "name": made.name, "args": {"code": CODE}}
    message = await made.ainvoke(call, {"configurable": {"thread_id": "host-tools"}})
    values, failed, wrong, unknown, denied, paid, missing = message.content.splitlines()
    assert values == "[20, 22] [7]"
    assert failed.startswith("['ToolError', ")
    assert failed.endswith("KeyError: 'nobody'")
    assert "'ToolArgumentError'" in wrong
    assert "'ToolArgumentError'" in unknown or "'TypeError'" in unknown
    assert "'ToolDeniedError'" in denied
    assert denied.endswith("too much")
    assert paid == "paid 5"
    assert "erase_all" in missing
    statuses = [one.status for one in message.artifact.tool_calls]
    assert statuses[:3] == ["succeeded", "succeeded", "failed"]
    assert "denied" in statuses
    assert statuses[-1] == "succeeded"
