"""`cci provision`: from an empty resource group to a working pool, and back."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import anyio
import typer

from cci_plugins.common.settings import Settings, get_variable_name
from cci_plugins.errors import ConfigurationError

from . import console
from . import provision_options as opts
from .progress_view import show_run_progress
from .provision_output import deployment_to_dict, inventory_to_dict, plan_to_dict, print_plan

if TYPE_CHECKING:
    from cci_plugins.provisioning import Azure, Deployment, Inventory, Options, Plan, Removed, Run

T = TypeVar("T")

app = typer.Typer(
    help="Make a session pool in Azure, look at it, or take it away.", no_args_is_help=True
)


@app.command()
def up(
    *,
    kind: opts.KindOption = "python",
    subscription: opts.Subscription = None,
    resource_group: opts.Group = None,
    location: opts.Location = None,
    name: opts.Name = "cci",
    suffix: opts.Suffix = "",
    storage: opts.Storage = True,
    gateway: opts.Gateway = False,
    requirements: opts.Requirements = None,
    image: opts.Image = None,
    max_sessions: opts.MaxSessions = 10,
    ready_sessions: opts.ReadySessions = 1,
    cooldown: opts.Cooldown = 600,
    egress: opts.Egress = False,
    tags: opts.Tags = None,
    principal_id: opts.PrincipalId = "",
    principal_type: opts.PrincipalTypeOption = None,
    env_file: opts.EnvFile = Path(".env"),
    write_key: opts.WriteKey = False,
    replace_env: opts.ReplaceEnv = False,
    plan: opts.PlanOnly = False,
    yes: opts.Yes = False,
    as_json: opts.AsJson = False,
    polling: opts.Polling = opts.POLLING,
) -> None:
    """Make what is missing for a session pool, and run 1+1 in it.

    Every step looks first, so the command can be run again at any time; after Ctrl-C it goes on.
    Settings are written to a file, without the key, which is fetched when it is needed.
    """
    target = _Target(subscription, resource_group, name, suffix, polling)
    wanted = target.options(
        kind=kind,
        location=location,
        storage=storage,
        gateway=gateway,
        requirements=requirements,
        image=image,
        max_sessions=max_sessions,
        ready_sessions=ready_sessions,
        cooldown=timedelta(seconds=cooldown),
        egress=egress,
        tags=_parse_tags(tags or []),
        principal_id=principal_id,
        principal_type=principal_type,
    )
    up_options = _UpOptions(env_file, write_key, replace_env, plan, yes, as_json)
    _up(wanted, target.azure, up_options)


@app.command()
def show(
    *,
    subscription: opts.Subscription = None,
    resource_group: opts.Group = None,
    name: opts.Name = "cci",
    suffix: opts.Suffix = "",
    as_json: opts.AsJson = False,
) -> None:
    """Show what is there, and the settings that make this package use it."""
    from cci_plugins import provisioning

    target = _Target(subscription, resource_group, name, suffix, opts.POLLING)
    found = _run_with_progress(provisioning.show(target.options(), azure=target.azure))
    _print(inventory_to_dict(found), as_json=as_json, print_text=lambda: _print_inventory(found))


@app.command()
def down(
    *,
    subscription: opts.Subscription = None,
    resource_group: opts.Group = None,
    name: opts.Name = "cci",
    suffix: opts.Suffix = "",
    env_file: opts.EnvFile = Path(".env"),
    yes: opts.Yes = False,
    as_json: opts.AsJson = False,
    polling: opts.Polling = opts.POLLING,
) -> None:
    """Remove what `up` made, with everything in it; nothing else.

    The resource group goes too when `up` made it and nothing else is in it. Settings that name
    the removed pool are removed from the file.
    """
    from cci_plugins import provisioning

    target = _Target(subscription, resource_group, name, suffix, polling)
    wanted = target.options()
    if not yes:
        found = _run_with_progress(provisioning.show(wanted, azure=target.azure))
        for one in found.resources:
            console.print_message(f"- {one.kind} {one.name}", style="")
        _require_confirmation(
            f"remove these {len(found.resources)} resources and all that is in them?"
        )
    done = _run_with_progress(provisioning.down(wanted, azure=target.azure, env_file=env_file))
    _print(asdict(done), as_json=as_json, print_text=lambda: _print_removed(done))


@app.command()
def rotate_key(
    *,
    subscription: opts.Subscription = None,
    resource_group: opts.Group = None,
    name: opts.Name = "cci",
    suffix: opts.Suffix = "",
) -> None:
    """Make a new key for the pool's MCP endpoint; it is not shown.

    This package fetches it by itself where AZURE_SESSION_POOL_RESOURCE_ID is set. A Foundry
    connection has to be connected again.
    """
    from cci_plugins import provisioning

    target = _Target(subscription, resource_group, name, suffix, opts.POLLING)
    _run_with_progress(provisioning.rotate_key(target.options(), azure=target.azure))


class _UpOptions(NamedTuple):
    """What `up` does around its work."""

    env_file: Path
    write_key: bool
    replace_env: bool
    plan: bool
    yes: bool
    as_json: bool


def _up(wanted: Options, azure: Azure, up_options: _UpOptions) -> None:
    from cci_plugins import provisioning

    if up_options.plan or not up_options.yes:
        plan = _run_with_progress(provisioning.plan(wanted, azure=azure))
        if up_options.plan:
            _print(
                plan_to_dict(plan), as_json=up_options.as_json, print_text=lambda: print_plan(plan)
            )
            return
        _confirm(plan)
    run = provisioning.up(
        wanted,
        azure=azure,
        env_file=up_options.env_file,
        write_key=up_options.write_key,
        replace_env=up_options.replace_env,
    )
    _print_deployment(_run_with_progress(run), as_json=up_options.as_json)


class _Target:
    """Which deployment: from options, else from the environment, else asked for."""

    def __init__(
        self, subscription: str | None, group: str | None, name: str, suffix: str, polling: float
    ) -> None:
        from cci_plugins.provisioning import Azure

        self._settings = Settings.read(check=False)
        self._subscription = subscription or self._settings.subscription
        self._group = group or self._settings.resource_group
        self._name, self._suffix = name, suffix
        self.azure: Azure = Azure(
            endpoint=self._settings.arm_endpoint, polling=timedelta(seconds=polling)
        )

    def options(self, *, location: str | None = None, **more: Any) -> Options:
        """The options, complete."""
        from cci_plugins.provisioning import Options
        from cci_plugins.provisioning.inventory import find_only_subscription

        group = self._group or _ask_group()
        subscription = self._subscription or _run_async(lambda: find_only_subscription(self.azure))
        named: dict[str, Any] = {"subscription": subscription, "resource_group": group, **more}
        if region := location or self._settings.location:
            named["location"] = region
        return Options(name=self._name, suffix=self._suffix, **named)


def _ask_group() -> str:
    if console.is_interactive():
        return str(typer.prompt("resource group", default="cci-plugins", err=True))
    raise ConfigurationError(
        "no resource group is named",
        hint=f"--resource-group NAME, or set {get_variable_name('resource_group')}",
    )


def _confirm(plan: Plan) -> None:
    if all(one.action == "keep" for one in plan.resources):
        return
    print_plan(plan, console.write_stderr)
    _require_confirmation("make this?")


def _require_confirmation(question: str) -> None:
    if not console.is_interactive():
        raise ConfigurationError(
            "nobody is there to say yes to this", hint="add --yes; see it first by --plan or show"
        )
    if not console.ask(question):
        raise typer.Abort


def _run_with_progress(run: Run[T]) -> T:
    """Work to the end, and show the progress."""

    async def work() -> T:
        await show_run_progress(run)
        return run.result

    return _run_async(work)


def _run_async(work: Callable[[], Awaitable[T]]) -> T:
    try:
        return anyio.run(work)
    except KeyboardInterrupt:
        console.print_hint("run the same command again; it goes on from here")
        raise


def _parse_tags(given: list[str]) -> dict[str, str]:
    tags = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise ConfigurationError(f"{one!r} is no tag", hint="write --tag NAME=VALUE")
        tags[name] = value
    return tags


def _print(facts: dict[str, Any], *, as_json: bool, print_text: Callable[[], None]) -> None:
    if as_json:
        console.write_stdout(json.dumps(facts) + "\n")
    else:
        print_text()


def _print_deployment(deployment: Deployment, *, as_json: bool) -> None:
    def print_lines() -> None:
        for name, value in deployment.environment().items():
            console.write_stdout(f"{name}={value}\n")
        if deployment.kind == "custom" and deployment.mcp_endpoint:
            console.print_message(f"MCP endpoint of the gateway: {deployment.mcp_endpoint}")
        console.print_message('ready: cci run "1+1"')

    _print(deployment_to_dict(deployment), as_json=as_json, print_text=print_lines)


def _print_inventory(found: Inventory) -> None:
    for one in found.resources:
        console.write_stdout(f"{one.kind}\t{one.name}\t{one.state or '-'}\n")
    if found.deployment is None:
        console.print_message("there is no session pool of that name")
        console.print_hint("cci provision up")
        return
    for name, value in found.deployment.environment().items():
        console.write_stdout(f"{name}={value}\n")


def _print_removed(done: Removed) -> None:
    if done.unset:
        console.print_message(f"removed from the settings: {', '.join(done.unset)}")
    if not done.left:
        return
    console.print_message("these resources of the group belong to something else and stay:")
    for identifier in done.left:
        kind, _, name = identifier.rpartition("/")
        console.print_message(f"- {kind.partition('/providers/')[2]} {name}", style="")
