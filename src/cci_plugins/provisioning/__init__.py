"""Provisioning in Azure: from an empty resource group to a session pool that runs code, and back.

```python
from cci_plugins.provisioning import Options, up


async def provision(subscription: str) -> dict[str, str]:
    run = up(Options(subscription=subscription, resource_group="my-group"))
    async for progress in run:
        print(progress.message)
    return run.result.environment()
```
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cci_plugins.errors import ConfigurationError

try:
    from cci_plugins.azure.options import Azure
    from cci_plugins.azure.resource import Resource

    from .deploy import PostDeployOptions, deploy
    from .deployment import Deployment
    from .foundry import FoundryDeployment
    from .foundry_inventory import Found, FoundryInventory
    from .inventory import Inventory, read_inventory
    from .keys import rotate
    from .options import Kind, Options, PrincipalType
    from .plan import Plan, Planned, make_plan
    from .progress import Progress, Run
    from .removal import Removed, remove
except ModuleNotFoundError as missing:
    if (missing.name or "").startswith("cci_plugins"):
        raise
    raise ConfigurationError(
        f"provisioning needs {missing.name}", hint='pip install "cci-plugins[provision]"'
    ) from missing

__all__ = [
    "Azure",
    "Deployment",
    "Found",
    "FoundryDeployment",
    "FoundryInventory",
    "Inventory",
    "Kind",
    "Options",
    "Plan",
    "Planned",
    "PrincipalType",
    "Progress",
    "Removed",
    "Resource",
    "Run",
    "down",
    "plan",
    "rotate_key",
    "show",
    "up",
]


def up(
    options: Options,
    *,
    azure: Azure | None = None,
    env_file: Path | None = None,
    write_key: bool = False,
    replace_env: bool = False,
    try_out: bool = True,
) -> Run[Deployment]:
    """Create what is missing for a session pool, and prove that it runs code.

    Every step reads the current state first. So you can run it again at any time, and after an
    interruption it continues.

    Args:
        options: What to provision.
        azure: Address, sign-in and waiting times for Azure.
        env_file: File for the settings that make this package use the pool.
        write_key: Whether to write the pool's key too. Otherwise it is fetched when needed.
        replace_env: Whether to replace values that the file already has.
        try_out: Whether to run `1+1` in the pool.

    Returns:
        The run: iterate it for its progress, then read `result`. Iterating raises
        `ProvisioningError`, `AuthenticationError` or `ConfigurationError`.
    """
    post_deploy = PostDeployOptions(
        env_file=env_file, write_key=write_key, replace_env=replace_env, try_out=try_out
    )
    return Run(partial(deploy, options, azure or Azure(), post_deploy))


def down(
    options: Options,
    *,
    azure: Azure | None = None,
    env_file: Path | None = None,
    remove_agents: bool = False,
    remove_checkpoints: bool = False,
) -> Run[Removed]:
    """Remove what `up` created for these options, by computed name and tag, and nothing else.

    Args:
        options: What was provisioned.
        azure: Address, sign-in and waiting times for Azure.
        env_file: File from which the variables that name this deployment are removed.
        remove_agents: Whether a Foundry project that `up` created may be removed with its agents.
        remove_checkpoints: Whether the storage account may be removed with its saved sessions.
            Otherwise an account that has some, or cannot be looked into, stays.

    Returns:
        The run: iterate it for its progress, then read `result`. Iterating raises
        `ProvisioningError` with the code `ProjectHasAgents` before anything is removed.
    """
    work = partial(
        remove,
        options,
        azure or Azure(),
        env_file=env_file,
        remove_agents=remove_agents,
        remove_checkpoints=remove_checkpoints,
    )
    return Run(work)


def show(options: Options, *, azure: Azure | None = None) -> Run[Inventory]:
    """List what exists.

    Args:
        options: What was provisioned.
        azure: Address, sign-in and waiting times for Azure.

    Returns:
        The run: iterate it for its progress, then read `result`.
    """
    return Run(partial(read_inventory, options, azure or Azure()))


def plan(options: Options, *, azure: Azure | None = None) -> Run[Plan]:
    """Report what `up` would do and what it would cost. Change nothing.

    Args:
        options: What to provision.
        azure: Address, sign-in and waiting times for Azure.

    Returns:
        The run: iterate it for its progress, then read `result`.
    """
    return Run(partial(make_plan, options, azure or Azure()))


def rotate_key(options: Options, *, azure: Azure | None = None) -> Run[None]:
    """Replace the key of the pool's MCP endpoint.

    Args:
        options: What was provisioned.
        azure: Address, sign-in and waiting times for Azure.

    Returns:
        The run: iterate it for its progress.
    """
    return Run(partial(rotate, options, azure or Azure()))
