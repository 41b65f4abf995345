"""What to emulate. Where sources contradict each other on Azure's behaviour, it is an option."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from .faults import Faults


@dataclass(frozen=True, slots=True)
class Emulation:
    """One pool.

    Attributes:
        kind: `platform`, the MCP server of a managed pool, with a key, and its REST API with a
            token; `managed`, a managed pool without MCP; `custom`, a custom-container pool.
        container: What is in the containers of a custom pool: `cci`, our server, or an interpreter
            that answers `/executions` only.
        max_sessions: Places of the pool.
        cooldown: A place stays taken for so long after the last request.
        output_characters: Where output streams are cut; REST requests may ask for more.
        launch_tool: Name of the tool that launches an environment.
        unknown_environments: Whether an id that the pool did not give is a new, empty session, as
            observed, or an error, as documented.
        latency: Waited before every answer.
        errors: Whether a wrong key shows as an HTTP status or in a JSON-RPC error.
        replies: Whether MCP answers as JSON or as server-sent events.
        old_form_only: The REST API has `/code/execute`, not yet `/executions`.
        hang: How long a hung request takes.
        faults: What goes wrong.
    """

    kind: Literal["platform", "managed", "custom"] = "platform"
    container: Literal["cci", "executions"] = "cci"
    max_sessions: int = 10
    cooldown: timedelta = timedelta(minutes=5)
    output_characters: int = 4096
    launch_tool: str = "launchShell"
    unknown_environments: Literal["new", "error"] = "new"
    latency: timedelta = timedelta(0)
    errors: Literal["http", "rpc"] = "http"
    replies: Literal["json", "sse"] = "json"
    old_form_only: bool = False
    hang: timedelta = timedelta(hours=1)
    faults: Faults = field(default_factory=Faults)
