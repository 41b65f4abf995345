"""Command-line options of `cci provision`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cci_plugins.azure.foundry_defaults import DEFAULT_CAPACITY, DEFAULT_MODEL, DEFAULT_SKU

POLLING_SECONDS = 5.0

SubscriptionOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Subscription id. By default AZURE_SUBSCRIPTION_ID, or your only subscription.",
    ),
]
GroupOption = Annotated[
    str | None,
    typer.Option(
        "--resource-group",
        "-g",
        metavar="NAME",
        help="Resource group. By default AZURE_RESOURCE_GROUP.",
    ),
]
NameOption = Annotated[
    str, typer.Option(help="First part of every resource's name, and the value of its tag.")
]
SuffixOption = Annotated[
    str,
    typer.Option(
        help="Last part of every resource's name. By default derived from the group's id."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
PollingOption = Annotated[
    float,
    typer.Option(
        min=0.01, max=3600, help="Seconds between requests for the state of a long operation."
    ),
]
LocationOption = Annotated[
    str | None,
    typer.Option(
        "--location", "-l", help="Azure region. By default AZURE_LOCATION, or else eastus."
    ),
]
KindOption = Annotated[
    Literal["python", "custom"] | None,
    typer.Option(
        help="A managed Python pool with an MCP server, or a custom pool with your packages. "
        "By default that of an existing pool, or else python."
    ),
]
StorageOption = Annotated[
    bool | None,
    typer.Option(help="Create a storage account for files that are transferred by link."),
]
CheckpointDaysOption = Annotated[
    int | None,
    typer.Option(help="Days after which the storage deletes a saved session. 30 for a new one."),
]
RemoveCheckpointsOption = Annotated[
    bool,
    typer.Option("--remove-checkpoints", help="Remove the storage even if it has saved sessions."),
]
GatewayOption = Annotated[
    bool | None, typer.Option("--gateway", help="Create an MCP endpoint for a custom pool.")
]
FoundryOption = Annotated[
    bool | None,
    typer.Option(
        "--foundry",
        help="Create a Foundry account with a project and a model, and connect the project to the "
        "pool. A custom pool gets a gateway for it.",
    ),
]
FoundryAccountOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID", help="Resource id of an existing Foundry account to create the project in."
    ),
]
FoundryProjectOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID", help="Resource id of an existing Foundry project to connect to the pool."
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Model of the Foundry project. By default that of an existing one, or else "
        f"{DEFAULT_MODEL}.",
    ),
]
ModelVersionOption = Annotated[
    str | None,
    typer.Option(metavar="VERSION", help="Version of the model. By default the region's."),
]
ModelSkuOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Kind of the model's deployment, such as DataZoneStandard. By default {DEFAULT_SKU}.",
    ),
]
ModelCapacityOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Most tokens a minute of the model, in thousands. By default {DEFAULT_CAPACITY}.",
    ),
]
RemoveAgentsOption = Annotated[
    bool,
    typer.Option("--remove-agents", help="Remove the Foundry project even if it has agents."),
]
RequirementsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", exists=True, dir_okay=False, help="Packages for a custom pool's sessions."
    ),
]
ImageOption = Annotated[
    str | None, typer.Option(help="Container image of a custom pool, instead of building one.")
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        metavar="IMAGE", help="Base image of the image that is built, such as a copy in a mirror."
    ),
]
RegistryIdentityOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Resource id of an identity that may pull --image from its private registry. The "
        "deployment's own registry needs none.",
    ),
]
CpuOption = Annotated[
    float | None,
    typer.Option(
        help="CPUs of a custom pool's session. By default that of an existing pool, or else 1."
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="GIB",
        help="Memory of a custom pool's session, such as 4Gi. By default that of an existing pool, "
        "or else 2Gi.",
    ),
]
EnvOption = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="NAME=VALUE",
        help="Variable for the code in a custom pool. Together they replace those of an existing "
        "pool.",
    ),
]
SecretOption = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="NAME",
        help="Variable for the code whose value Azure stores as a secret. The value comes from "
        "this command's environment, or is asked for. The code can read it.",
    ),
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Resource id of an existing Container Apps environment for a custom pool, instead of "
        "creating one.",
    ),
]
SubnetOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Resource id of a subnet for a custom pool's environment, delegated to "
        "Microsoft.App/environments.",
    ),
]
LogsOption = Annotated[
    bool | None,
    typer.Option(
        help="Send the logs of a custom pool's containers to a Log Analytics workspace, which is "
        "created and billed. By default not."
    ),
]
GatewayCpuOption = Annotated[
    float | None, typer.Option(help="CPUs of the gateway: 0.25 to 4. By default 0.5.")
]
GatewayMemoryOption = Annotated[
    str | None,
    typer.Option(metavar="GIB", help="Memory of the gateway: twice its CPUs. By default 1Gi."),
]
GatewayReplicasOption = Annotated[
    int | None, typer.Option(min=1, help="Most replicas of the gateway. By default 3.")
]
GatewayRequestsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most requests of all the gateway's clients in a minute, for each replica. By default "
        "6000.",
    ),
]
GatewayRunsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most runs of one environment in a minute, for each replica. By default 600.",
    ),
]
MaxSessionsOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Maximum number of sessions. By default that of an existing pool, or else 10."
    ),
]
ReadySessionsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of sessions that a custom pool keeps ready. They are billed. By default that "
        "of an existing pool, or else 1.",
    ),
]
CooldownOption = Annotated[
    int | None,
    typer.Option(
        min=300,
        max=3600,
        help="Seconds until an unused session ends. By default that of an existing pool, or else "
        "600.",
    ),
]
EgressOption = Annotated[
    bool | None,
    typer.Option(help="Let code in the sessions reach the internet. By default not."),
]
TagsOption = Annotated[
    list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="Tag for every resource.")
]
PrincipalIdOption = Annotated[
    str,
    typer.Option(
        metavar="ID",
        help="Object id of the pool's user. By default, the account that is signed in.",
    ),
]
PrincipalTypeOption = Annotated[
    Literal["User", "Group", "ServicePrincipal"] | None,
    typer.Option(help="Type of the principal. Detected by default."),
]
EnvFileOption = Annotated[
    Path,
    typer.Option(metavar="FILE", dir_okay=False, help="File that the settings are written to."),
]
WriteKeyOption = Annotated[
    bool, typer.Option("--write-key", help="Write the pool's key to the file too.")
]
ReplaceEnvOption = Annotated[
    bool, typer.Option("--replace-env", help="Replace settings that the file already has.")
]
PlanOption = Annotated[
    bool,
    typer.Option("--plan", help="Show what would be created and billed, without any change."),
]
