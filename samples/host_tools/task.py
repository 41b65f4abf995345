"""The question, the three tools, and what the scripted model does with and without code."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

from cci_plugins.testing import Script, ScriptedCall, Steps

QUESTION = "Which customer spent the most, in euros, and how much?"
INSTRUCTIONS = "Answer questions about the orders of a shop. Use the tools."
CUSTOMERS = [f"customer {number:02}" for number in range(1, 21)]
RATES = {"EUR": 1.0, "GBP": 1.15, "USD": 0.92}
CURRENCIES = sorted(RATES)
CODE = """
import asyncio
customers = tools.list_customers()
found = await asyncio.gather(*(tools.acall("find_orders", customer=one) for one in customers))
orders = [order for each in found for order in each]
rates = {one: tools.get_rate(currency=one) for one in {order["currency"] for order in orders}}
totals = dict.fromkeys(customers, 0.0)
for order in orders:
    totals[order["customer"]] += order["amount"] * rates[order["currency"]]
best = max(totals, key=totals.get)
print(f"{best} spent {totals[best]:.2f} EUR in {len(orders)} orders of all")
"""


async def list_customers() -> list[str]:
    """List the names of all customers."""
    return CUSTOMERS


async def find_orders(customer: str) -> list[dict[str, Any]]:
    """Find the orders of a customer."""
    number = CUSTOMERS.index(customer) + 1
    return [
        {
            "id": f"{number:02}-{order:02}",
            "customer": customer,
            "amount": (number * 37 + order * 53) % 97 + 3,
            "currency": CURRENCIES[(number + order) % 3],
        }
        for order in range(10)
    ]


async def get_rate(currency: str) -> float:
    """Get the value of a currency in euros."""
    return RATES[currency]


TOOLS = (list_customers, find_orders, get_rate)


def call_one_tool_after_the_other(results: Sequence[str]) -> ScriptedCall | str:
    """Call a tool in each turn, as a model without code does, and answer from all results."""
    calls = [
        ScriptedCall("list_customers"),
        *(ScriptedCall("find_orders", {"customer": one}) for one in CUSTOMERS),
        *(ScriptedCall("get_rate", {"currency": one}) for one in CURRENCIES),
    ]
    if len(results) < len(calls):
        return calls[len(results)]
    rates = dict(zip(CURRENCIES, map(float, results[-len(CURRENCIES) :]), strict=True))
    totals = dict.fromkeys(CUSTOMERS, 0.0)
    for result in results[1 : -len(CURRENCIES)]:
        for order in parse_orders(result):
            totals[order["customer"]] += order["amount"] * rates[order["currency"]]
    best = max(totals, key=lambda one: totals[one])
    return f"{best} spent {totals[best]:.2f} EUR in 200 orders of all"


def run_code(results: Sequence[str]) -> ScriptedCall | str:
    """Write one program, and answer with what it printed."""
    return results[0] if results else ScriptedCall("execute_code", {"code": CODE})


def parse_orders(text: str) -> list[dict[str, Any]]:
    """Read the orders as a framework shows them to the model: as JSON, or as Python values."""
    try:
        orders = json.loads(text)
    except ValueError:
        orders = ast.literal_eval(text)
    return list(orders)


WITHOUT_CODE = Script((Steps(QUESTION, call_one_tool_after_the_other),))
WITH_CODE = Script((Steps(QUESTION, run_code),))
