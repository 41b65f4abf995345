"""The options of `cci provision`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Kind = Literal["python", "custom"]
PrincipalType = Literal["User", "Group", "ServicePrincipal"]
POLLING = 5.0

Subscription = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Subscription; by default AZURE_SUBSCRIPTION_ID, or the only."),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--resource-group", "-g", metavar="NAME", help="Group; by default AZURE_RESOURCE_GROUP."
    ),
]
Name = Annotated[str, typer.Option(help="Begins every resource's name, and is their tag's value.")]
Suffix = Annotated[
    str, typer.Option(help="Ends every resource's name; by default made from the group's id.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as one line of JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Polling = Annotated[
    float, typer.Option(min=0.01, max=3600, help="Seconds between two looks at what takes long.")
]
Location = Annotated[
    str | None, typer.Option("--location", "-l", help="Region; by default AZURE_LOCATION.")
]
KindOption = Annotated[
    Kind,
    typer.Option(
        help="A managed Python pool with an MCP server, or a custom pool with your packages."
    ),
]
Storage = Annotated[bool, typer.Option(help="Make a storage account for files that cross by link.")]
Gateway = Annotated[bool, typer.Option("--gateway", help="Make an MCP endpoint for a custom pool.")]
Requirements = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", exists=True, dir_okay=False, help="Packages of a custom pool's sessions."
    ),
]
Image = Annotated[str | None, typer.Option(help="Image of a custom pool, instead of building one.")]
MaxSessions = Annotated[int, typer.Option(min=1, help="Most sessions at once.")]
ReadySessions = Annotated[
    int, typer.Option(min=1, help="Sessions a custom pool keeps ready; they are billed.")
]
Cooldown = Annotated[
    int, typer.Option(min=300, max=3600, help="Seconds until an unused session ends.")
]
Egress = Annotated[
    bool, typer.Option("--egress", help="Let code in the sessions reach the internet.")
]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="Tag on every resource.")
]
PrincipalId = Annotated[
    str, typer.Option(metavar="ID", help="Who may use it; by default who is signed in.")
]
PrincipalTypeOption = Annotated[
    PrincipalType | None, typer.Option(help="What that is; found out by default.")
]
EnvFile = Annotated[
    Path, typer.Option(metavar="FILE", dir_okay=False, help="Where the settings go.")
]
WriteKey = Annotated[bool, typer.Option("--write-key", help="Write the pool's key there too.")]
ReplaceEnv = Annotated[
    bool, typer.Option("--replace-env", help="Replace what is set there already.")
]
PlanOnly = Annotated[
    bool, typer.Option("--plan", help="Say what would be made and billed; change nothing.")
]
