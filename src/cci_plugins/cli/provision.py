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

from cci_plugins.common.settings import Settings, variable
from cci_plugins.errors import ConfigurationError

from . import console
from . import provision_options as of
from .progress_view import tell
from .provision_output import deployment_facts, inventory_facts, plan_facts, print_plan

if TYPE_CHECKING:
    from cci_plugins.provisioning import Azure, Deployment, Inventory, Options, Plan, Run

T = TypeVar("T")

app = typer.Typer(
    help="Make a session pool in Azure, look at it, or take it away.", no_args_is_help=True
)


@app.command()
def up(
    *,
    kind: of.KindOption = "python",
    subscription: of.Subscription = None,
    resource_group: of.Group = None,
    location: of.Location = None,
    name: of.Name = "cci",
    suffix: of.Suffix = "",
    storage: of.Storage = True,
    gateway: of.Gateway = False,
    requirements: of.Requirements = None,
    image: of.Image = None,
    max_sessions: of.MaxSessions = 10,
    ready_sessions: of.ReadySessions = 1,
    cooldown: of.Cooldown = 600,
    egress: of.Egress = False,
    tags: of.Tags = None,
    principal_id: of.PrincipalId = "",
    principal_type: of.PrincipalTypeOption = None,
    env_file: of.EnvFile = Path(".env"),
    write_key: of.WriteKey = False,
    replace_env: of.ReplaceEnv = False,
    plan: of.PlanOnly = False,
    yes: of.Yes = False,
    as_json: of.AsJson = False,
    polling: of.Polling = of.POLLING,
) -> None:
    """Make what is missing for a session pool, and run 1+1 in it.

    Every step looks first, so the command can be run again at any time; after Ctrl-C it goes on.
    Settings are written to a file, without the key, which is fetched when it is needed.
    """
    where = _Where(subscription, resource_group, name, suffix, polling)
    wanted = where.options(
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
        tags=_tags(tags or []),
        principal_id=principal_id,
        principal_type=principal_type,
    )
    how = _How(env_file, write_key, replace_env, plan, yes, as_json)
    _up(wanted, where.azure, how)


@app.command()
def show(
    *,
    subscription: of.Subscription = None,
    resource_group: of.Group = None,
    name: of.Name = "cci",
    suffix: of.Suffix = "",
    as_json: of.AsJson = False,
) -> None:
    """Show what is there, and the settings that make this package use it."""
    from cci_plugins import provisioning

    where = _Where(subscription, resource_group, name, suffix, of.POLLING)
    found = _work(provisioning.show(where.options(), azure=where.azure))
    _print(inventory_facts(found), as_json=as_json, otherwise=lambda: _print_inventory(found))


@app.command()
def down(
    *,
    subscription: of.Subscription = None,
    resource_group: of.Group = None,
    name: of.Name = "cci",
    suffix: of.Suffix = "",
    yes: of.Yes = False,
    as_json: of.AsJson = False,
    polling: of.Polling = of.POLLING,
) -> None:
    """Remove what `up` made, with everything in it; nothing else.

    The resource group goes too when `up` made it and nothing else is in it.
    """
    from cci_plugins import provisioning

    where = _Where(subscription, resource_group, name, suffix, polling)
    wanted = where.options()
    if not yes:
        found = _work(provisioning.show(wanted, azure=where.azure))
        for one in found.resources:
            console.say(f"- {one.kind} {one.name}", style="")
        _ask_or_refuse(f"remove these {len(found.resources)} resources and all that is in them?")
    done = _work(provisioning.down(wanted, azure=where.azure))
    _print(asdict(done), as_json=as_json, otherwise=lambda: _print_removed(done.left))


@app.command()
def rotate_key(
    *,
    subscription: of.Subscription = None,
    resource_group: of.Group = None,
    name: of.Name = "cci",
    suffix: of.Suffix = "",
) -> None:
    """Make a new key for the pool's MCP endpoint; it is not shown.

    This package fetches it by itself where AZURE_SESSION_POOL_RESOURCE_ID is set. A Foundry
    connection has to be connected again.
    """
    from cci_plugins import provisioning

    where = _Where(subscription, resource_group, name, suffix, of.POLLING)
    _work(provisioning.rotate_key(where.options(), azure=where.azure))


class _How(NamedTuple):
    """What `up` does around its work."""

    env_file: Path
    write_key: bool
    replace_env: bool
    plan: bool
    yes: bool
    as_json: bool


def _up(wanted: Options, azure: Azure, how: _How) -> None:
    from cci_plugins import provisioning

    if how.plan or not how.yes:
        said = _work(provisioning.plan(wanted, azure=azure))
        if how.plan:
            _print(plan_facts(said), as_json=how.as_json, otherwise=lambda: print_plan(said))
            return
        _confirm(said)
    run = provisioning.up(
        wanted,
        azure=azure,
        env_file=how.env_file,
        write_key=how.write_key,
        replace_env=how.replace_env,
    )
    _print_deployment(_work(run), as_json=how.as_json)


class _Where:
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
        from cci_plugins.provisioning.subscriptions import only_subscription

        group = self._group or _asked_group()
        subscription = self._subscription or _run(lambda: only_subscription(self.azure))
        named: dict[str, Any] = {"subscription": subscription, "resource_group": group, **more}
        if place := location or self._settings.location:
            named["location"] = place
        return Options(name=self._name, suffix=self._suffix, **named)


def _asked_group() -> str:
    if console.asks():
        return str(typer.prompt("resource group", default="cci-plugins", err=True))
    raise ConfigurationError(
        "no resource group is named",
        hint=f"--resource-group NAME, or set {variable('resource_group')}",
    )


def _confirm(said: Plan) -> None:
    if all(one.action == "keep" for one in said.resources):
        return
    print_plan(said, console.err)
    _ask_or_refuse("make this?")


def _ask_or_refuse(question: str) -> None:
    if not console.asks():
        raise ConfigurationError(
            "nobody is there to say yes to this", hint="add --yes; see it first by --plan or show"
        )
    if not console.ask(question):
        raise typer.Abort


def _work(run: Run[T]) -> T:
    """Work to the end, and show the progress."""

    async def work() -> T:
        await tell(run)
        return run.result

    return _run(work)


def _run(work: Callable[[], Awaitable[T]]) -> T:
    try:
        return anyio.run(work)
    except KeyboardInterrupt:
        console.hint("run the same command again; it goes on from here")
        raise


def _tags(given: list[str]) -> dict[str, str]:
    tags = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise ConfigurationError(f"{one!r} is no tag", hint="write --tag NAME=VALUE")
        tags[name] = value
    return tags


def _print(facts: dict[str, Any], *, as_json: bool, otherwise: Callable[[], None]) -> None:
    if as_json:
        console.out(json.dumps(facts) + "\n")
    else:
        otherwise()


def _print_deployment(deployment: Deployment, *, as_json: bool) -> None:
    def lines() -> None:
        for name, value in deployment.environment().items():
            console.out(f"{name}={value}\n")
        if deployment.kind == "custom" and deployment.mcp_endpoint:
            console.say(f"MCP endpoint of the gateway: {deployment.mcp_endpoint}")
        console.say('ready: cci run "1+1"')

    _print(deployment_facts(deployment), as_json=as_json, otherwise=lines)


def _print_inventory(found: Inventory) -> None:
    for one in found.resources:
        console.out(f"{one.kind}\t{one.name}\t{one.state or '-'}\n")
    if found.deployment is None:
        console.say("there is no session pool of that name")
        console.hint("cci provision up")
        return
    for name, value in found.deployment.environment().items():
        console.out(f"{name}={value}\n")


def _print_removed(left: tuple[str, ...]) -> None:
    if left:
        console.say(f"{len(left)} resources of the group were not made by this, and stay")
