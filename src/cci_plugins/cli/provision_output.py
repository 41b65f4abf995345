"""What `cci provision` prints: as JSON, or as lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    from cci_plugins.provisioning import Deployment, Inventory, Plan

_SIGNS = {"create": "+", "update": "~", "check": "?", "keep": "="}


def deployment_to_dict(deployment: Deployment) -> dict[str, Any]:
    """A deployment, for programs; no secret is in it."""
    return {**asdict(deployment), "environment": deployment.environment()}


def inventory_to_dict(found: Inventory) -> dict[str, Any]:
    """What is there, for programs."""
    pool = found.deployment
    return {
        "resources": [{**asdict(one), "kind": one.kind} for one in found.resources],
        "deployment": None if pool is None else deployment_to_dict(pool),
    }


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """A plan, for programs."""
    return {
        "resources": [
            {
                "action": one.action,
                "kind": one.resource.kind,
                "type": one.resource.type,
                "name": one.resource.name,
                "id": one.resource.id,
            }
            for one in plan.resources
        ],
        "registrations": list(plan.registrations),
        "assignments": list(plan.assignments),
        "needed": list(plan.needed),
        "billed": list(plan.billed),
    }


def print_plan(plan: Plan, write: Callable[[str], None] = console.write_stdout) -> None:
    """A plan, for people.

    Args:
        plan: What would be made.
        write: Takes each line.
    """
    for one in plan.resources:
        write(f"{_SIGNS[one.action]} {one.resource.kind} {one.resource.name}\n")
    for title, lines in (
        ("registered in the subscription", plan.registrations),
        ("roles that are given", plan.assignments),
        ("roles you need", plan.needed),
        ("what is billed", plan.billed),
    ):
        write(f"\n{title}:\n")
        for line in lines:
            write(f"  {line}\n")
