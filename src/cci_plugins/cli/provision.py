"""`cci provision`: create, show and remove a session pool in Azure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import anyio
import typer

from cci_plugins.common.settings import Settings, get_variable_name
from cci_plugins.errors import AuthenticationError, ConfigurationError

from . import console
from . import provision_options as opts
from . import provision_output as output
from .help import HelpCommand, HelpGroup
from .provision_values import convert_options

if TYPE_CHECKING:
    from cci_plugins.provisioning import Azure, Options, Plan, Run

T = TypeVar("T")

app = typer.Typer(
    cls=HelpGroup, help="Create, show or remove a session pool in Azure.", no_args_is_help=True
)


@app.command(
    cls=HelpCommand, epilog="cci provision up --plan\ncci provision up --kind custom --gateway"
)
def up(
    *,
    kind: opts.KindOption = None,
    subscription: opts.SubscriptionOption = None,
    resource_group: opts.GroupOption = None,
    location: opts.LocationOption = None,
    name: opts.NameOption = "cci",
    suffix: opts.SuffixOption = "",
    storage: opts.StorageOption = None,
    checkpoint_days: opts.CheckpointDaysOption = None,
    gateway: opts.GatewayOption = None,
    gateway_cpu: opts.GatewayCpuOption = None,
    gateway_memory: opts.GatewayMemoryOption = None,
    gateway_replicas: opts.GatewayReplicasOption = None,
    gateway_requests_per_minute: opts.GatewayRequestsOption = None,
    gateway_runs_per_minute: opts.GatewayRunsOption = None,
    foundry: opts.FoundryOption = None,
    foundry_account: opts.FoundryAccountOption = None,
    foundry_project: opts.FoundryProjectOption = None,
    model: opts.ModelOption = None,
    model_version: opts.ModelVersionOption = None,
    model_sku: opts.ModelSkuOption = None,
    model_capacity: opts.ModelCapacityOption = None,
    requirements: opts.RequirementsOption = None,
    base: opts.BaseOption = None,
    image: opts.ImageOption = None,
    registry_identity: opts.RegistryIdentityOption = None,
    cpu: opts.CpuOption = None,
    memory: opts.MemoryOption = None,
    env: opts.EnvOption = None,
    secrets: opts.SecretOption = None,
    environment: opts.EnvironmentOption = None,
    subnet: opts.SubnetOption = None,
    logs: opts.LogsOption = None,
    max_sessions: opts.MaxSessionsOption = None,
    ready_sessions: opts.ReadySessionsOption = None,
    cooldown: opts.CooldownOption = None,
    egress: opts.EgressOption = None,
    tags: opts.TagsOption = None,
    principal_id: opts.PrincipalIdOption = "",
    principal_type: opts.PrincipalTypeOption = None,
    env_file: opts.EnvFileOption = Path(".env"),
    write_key: opts.WriteKeyOption = False,
    replace_env: opts.ReplaceEnvOption = False,
    plan: opts.PlanOption = False,
    yes: opts.YesOption = False,
    as_json: opts.JsonOption = False,
    polling: opts.PollingOption = opts.POLLING_SECONDS,
) -> None:
    """Create what is missing for a session pool, and run 1+1 in it.

    Every step first reads what exists, so you can run the command again at any time. After
    Ctrl-C it continues. Options that you leave out keep what an existing pool has, and its kind
    and region never change. Settings are written to a file, without the key. The key is fetched
    when it is needed.
    """
    fields = convert_options(dict(locals()))
    target = _Target(subscription, resource_group, name, suffix, polling)
    options = target.build_options(without_sign_in=plan, **fields)
    _up(options, target.azure, _UpOptions(env_file, write_key, replace_env, plan, yes, as_json))


@app.command(cls=HelpCommand, epilog="cci provision show")
def show(
    *,
    subscription: opts.SubscriptionOption = None,
    resource_group: opts.GroupOption = None,
    name: opts.NameOption = "cci",
    suffix: opts.SuffixOption = "",
    as_json: opts.JsonOption = False,
) -> None:
    """Show the existing resources, and the settings that make this package use the pool."""
    from cci_plugins import provisioning

    target = _Target(subscription, resource_group, name, suffix)
    run = provisioning.show(target.build_options(), azure=target.azure)
    output.print_inventory(_run_with_progress(run), as_json=as_json)


@app.command(cls=HelpCommand, epilog="cci provision down")
def down(
    *,
    subscription: opts.SubscriptionOption = None,
    resource_group: opts.GroupOption = None,
    name: opts.NameOption = "cci",
    suffix: opts.SuffixOption = "",
    env_file: opts.EnvFileOption = Path(".env"),
    remove_agents: opts.RemoveAgentsOption = False,
    remove_checkpoints: opts.RemoveCheckpointsOption = False,
    yes: opts.YesOption = False,
    as_json: opts.JsonOption = False,
    polling: opts.PollingOption = opts.POLLING_SECONDS,
) -> None:
    """Remove what `up` created and everything in it. Nothing else is removed.

    The resource group is removed too if `up` created it and it contains nothing else. Settings
    that name the removed pool are removed from the file. A Foundry project that has agents is
    removed only after a question of its own, or with --remove-agents. A storage account that has
    saved sessions stays, unless you add --remove-checkpoints.
    """
    from cci_plugins import provisioning
    from cci_plugins.provisioning.foundry_removal import describe_agents

    target = _Target(subscription, resource_group, name, suffix, polling)
    options = target.build_options()
    if not yes or console.is_interactive():
        inventory = _run_with_progress(provisioning.show(options, azure=target.azure))
        if not yes:
            for resource in inventory.resources:
                console.print_message(f"- {resource.kind} {resource.name}", style="")
            _require_confirmation(
                f"remove these {len(inventory.resources)} resources and everything in them?"
            )
        if not remove_agents and inventory.foundry.agents != ():
            question = f"the Foundry project: {describe_agents(inventory.foundry)}. Remove it?"
            _require_confirmation(question)
            remove_agents = True
    run = provisioning.down(
        options,
        azure=target.azure,
        env_file=env_file,
        remove_agents=remove_agents,
        remove_checkpoints=remove_checkpoints,
    )
    removed = _run_with_progress(run)
    output.print_removed(removed, as_json=as_json)


@app.command(cls=HelpCommand, epilog="cci provision rotate-key")
def rotate_key(
    *,
    subscription: opts.SubscriptionOption = None,
    resource_group: opts.GroupOption = None,
    name: opts.NameOption = "cci",
    suffix: opts.SuffixOption = "",
) -> None:
    """Create a new key for the pool's MCP endpoint, without showing it.

    This package fetches the key by itself if AZURE_SESSION_POOL_RESOURCE_ID is set. For a
    Foundry connection, run `cci foundry connect` again.
    """
    from cci_plugins import provisioning

    target = _Target(subscription, resource_group, name, suffix)
    _run_with_progress(provisioning.rotate_key(target.build_options(), azure=target.azure))


class _UpOptions(NamedTuple):
    """Options of `up` that do not describe the pool."""

    env_file: Path
    write_key: bool
    replace_env: bool
    plan: bool
    yes: bool
    as_json: bool


def _up(options: Options, azure: Azure, up_options: _UpOptions) -> None:
    from cci_plugins import provisioning

    if up_options.plan or not up_options.yes:
        plan = _run_with_progress(provisioning.plan(options, azure=azure))
        if up_options.plan:
            (output.print_plan_json if up_options.as_json else output.print_plan)(plan)
            return
        _confirm_plan(plan)
    run = provisioning.up(
        options,
        azure=azure,
        env_file=up_options.env_file,
        write_key=up_options.write_key,
        replace_env=up_options.replace_env,
    )
    output.print_deployment(_run_with_progress(run), as_json=up_options.as_json)


class _Target:
    """The deployment that a command works on.

    Each part comes from its option, otherwise from the environment. A missing resource group
    is asked for on a terminal.
    """

    def __init__(
        self,
        subscription: str | None,
        group: str | None,
        name: str,
        suffix: str,
        polling: float = opts.POLLING_SECONDS,
    ) -> None:
        from cci_plugins.provisioning import Azure

        self._settings = Settings.read(check=False)
        self._subscription = subscription or self._settings.subscription
        self._group = group or self._settings.resource_group
        self._name, self._suffix = name, suffix
        self.azure: Azure = Azure(
            endpoint=self._settings.arm_endpoint, polling=timedelta(seconds=polling)
        )

    def build_options(self, *, without_sign_in: bool = False, **more: Any) -> Options:
        """Build the options of the deployment, with everything they require.

        Args:
            without_sign_in: Whether a subscription that cannot be found out is acceptable.
            **more: Further fields of `Options`. None leaves one out.
        """
        from cci_plugins.provisioning import Options

        group = self._group or _ask_group()
        subscription = self._subscription or self._find_subscription(without_sign_in)
        fields = {name: value for name, value in more.items() if value is not None}
        options = Options(
            subscription=subscription,
            resource_group=group,
            name=self._name,
            suffix=self._suffix,
            **fields,
        )
        region = self._settings.location
        if region and "location" not in options.given:
            options = options.with_values(location=region)
        return options

    def _find_subscription(self, without_sign_in: bool) -> str:  # noqa: FBT001 - private
        from cci_plugins.provisioning.inventory import UNKNOWN_SUBSCRIPTION, find_subscription

        try:
            return _run_async(lambda: find_subscription(self.azure))
        except AuthenticationError:
            if not without_sign_in:
                raise
        return UNKNOWN_SUBSCRIPTION


def _ask_group() -> str:
    if console.is_interactive():
        return str(typer.prompt("resource group", default="cci-plugins", err=True))
    raise ConfigurationError(
        "the resource group is not set",
        hint=f"pass --resource-group NAME, or set {get_variable_name('resource_group')}",
    )


def _confirm_plan(plan: Plan) -> None:
    if all(change.action == "keep" for change in plan.resources):
        return
    output.print_plan(plan, console.write_stderr)
    _require_confirmation("apply this plan?")


def _require_confirmation(question: str) -> None:
    if not console.is_interactive():
        raise ConfigurationError(
            "this needs confirmation, but stdin or stderr is not a terminal",
            hint="add --yes. To see first what it does, use --plan or cci provision show",
        )
    if not console.confirm(question):
        raise typer.Abort


def _run_with_progress(run: Run[T]) -> T:
    """Run to the end, showing the progress, and return the result."""

    async def work() -> T:
        await output.show_progress(run)
        return run.result

    return _run_async(work)


def _run_async(work: Callable[[], Awaitable[T]]) -> T:
    try:
        return anyio.run(work)
    except KeyboardInterrupt:
        console.print_hint("run the same command again to continue from here")
        raise
