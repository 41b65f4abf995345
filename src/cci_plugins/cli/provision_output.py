"""Output of `cci provision`: progress, plans and results, as JSON or as lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from rich.text import Text

from . import console

if TYPE_CHECKING:
    from cci_plugins.provisioning import Deployment, Inventory, Plan, Progress, Removed, Run

T = TypeVar("T")

_PLAN_SIGNS = {"create": "+", "update": "~", "check": "?", "keep": "="}
_PROGRESS_SIGNS = {
    "created": "+",
    "updated": "~",
    "removed": "-",
    "kept": "=",
    "note": "!",
    "done": "*",
}
_PROGRESS_STYLES = {"created": "green", "updated": "yellow", "removed": "red", "note": "bold"}


async def show_progress(run: Run[T]) -> None:
    """Print the steps of a run until it ends. On a terminal, a spinner shows the current step."""
    stderr = console.create_stderr_console()
    if not console.has_animation(stderr):
        async for progress in run:
            stderr.print(_format_progress(progress))
        return
    with stderr.status("reading existing resources") as status:
        async for progress in run:
            if progress.state in {"working", "waiting"}:
                status.update(Text(progress.message))
            else:
                stderr.print(_format_progress(progress))


def _format_progress(progress: Progress) -> Text:
    sign = _PROGRESS_SIGNS.get(progress.state, " ")
    style = _PROGRESS_STYLES.get(progress.state, "dim")
    return Text(f"{sign} {progress.message}", style=style)


def print_plan(plan: Plan, write: Callable[[str], None] = console.write_stdout) -> None:
    """Print a plan for people.

    Args:
        plan: Plan to print.
        write: Function that receives each line.
    """
    write(f"subscription {plan.subscription}, region {plan.location}\n\n")
    for change in plan.resources:
        write(f"{_PLAN_SIGNS[change.action]} {change.resource.kind} {change.resource.name}\n")
        for line in change.changes:
            write(f"    {line}\n")
    for note in plan.notes:
        write(f"! {note}\n")
    for title, lines in (
        ("registrations in the subscription", plan.registrations),
        ("role assignments", plan.assignments),
        ("roles that you need", plan.needed),
        ("what is billed", plan.billed),
    ):
        write(f"\n{title}:\n")
        for line in lines:
            write(f"  {line}\n")


def print_plan_json(plan: Plan) -> None:
    """Print a plan as one line of JSON."""
    resources = [
        {
            "action": change.action,
            "kind": change.resource.kind,
            "type": change.resource.type,
            "name": change.resource.name,
            "id": change.resource.id,
            "changes": list(change.changes),
        }
        for change in plan.resources
    ]
    _print_json(
        {
            "subscription": plan.subscription,
            "location": plan.location,
            "notes": list(plan.notes),
            "resources": resources,
            "registrations": list(plan.registrations),
            "assignments": list(plan.assignments),
            "needed": list(plan.needed),
            "billed": list(plan.billed),
        }
    )


def print_deployment(deployment: Deployment, *, as_json: bool) -> None:
    """Print a deployment and the settings for it. The output contains no secret."""
    if as_json:
        _print_json(_deployment_to_dict(deployment))
        return
    _print_settings(deployment)
    if deployment.kind == "custom" and deployment.mcp_endpoint:
        console.print_message(f"MCP endpoint of the gateway: {deployment.mcp_endpoint}")
    if deployment.foundry is not None:
        name = deployment.foundry.project_id.rpartition("/")[2]
        console.print_message(f"Foundry project {name} is connected to the pool")
    console.print_message('ready: cci run "1+1"')


def print_inventory(inventory: Inventory, *, as_json: bool) -> None:
    """Print the existing resources of a deployment and the settings for it."""
    pool = inventory.deployment
    if as_json:
        resources = [{**asdict(one), "kind": one.kind} for one in inventory.resources]
        deployment = None if pool is None else _deployment_to_dict(pool)
        _print_json({"resources": resources, "deployment": deployment})
        return
    for resource in inventory.resources:
        console.write_stdout(f"{resource.kind}\t{resource.name}\t{resource.state or '-'}\n")
    if pool is None:
        console.print_message("the session pool does not exist")
        console.print_hint("cci provision up")
        return
    for note in pool.notes:
        console.print_message(note)
    _print_compute(pool)
    _print_settings(pool)


def print_removed(removed: Removed, *, as_json: bool) -> None:
    """Print which resources stay after a removal."""
    if as_json:
        _print_json(asdict(removed))
        return
    if removed.unset:
        console.print_message(f"removed from the settings: {', '.join(removed.unset)}")
    if removed.left:
        console.print_message("these resources of the group do not belong to it, and stay:")
    for identifier in removed.left:
        kind, _, name = identifier.rpartition("/")
        console.print_message(f"- {kind.partition('/providers/')[2]} {name}", style="")


def _print_compute(deployment: Deployment) -> None:
    if deployment.kind != "custom":
        return
    rows = {
        "image": deployment.image,
        "size": f"{deployment.cpu:g} CPU, {deployment.memory}" if deployment.cpu else None,
        "variables": ", ".join(deployment.variables),
        "secrets": ", ".join(deployment.secrets),
        "environment": deployment.environment_id,
    }
    for name, value in rows.items():
        if value:
            console.write_stdout(f"session {name}\t{value}\n")


def _print_settings(deployment: Deployment) -> None:
    for name, value in deployment.environment().items():
        console.write_stdout(f"{name}={value}\n")


def _deployment_to_dict(deployment: Deployment) -> dict[str, Any]:
    return {**asdict(deployment), "environment": deployment.environment()}


def _print_json(facts: dict[str, Any]) -> None:
    console.write_stdout(json.dumps(facts) + "\n")
