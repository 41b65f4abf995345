"""Options of an emulated pool.

Where sources contradict each other about Azure's behaviour, the behaviour is an option.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from cci_plugins.common.durations import convert_durations

from .faults import Faults


@dataclass(frozen=True, slots=True)
class Emulation:
    """Description of one emulated pool.

    Attributes:
        kind: `platform` is the MCP server of a managed pool, with a key, and its REST API, with a
            token. `managed` is a managed pool without MCP. `custom` is a custom-container pool.
        container: What runs in the containers of a custom pool. `cci` is this package's server.
            `executions` is an interpreter that answers `/executions` only.
        max_sessions: Most sessions at a time.
        cooldown: How long a session stays allocated after its last request.
        output_characters: Length at which output streams are cut, of shell commands in bytes. REST
            requests may ask for more.
        launch_tool: Name of the tool that launches an environment.
        unknown_environments: Whether an id that the pool did not issue is a new, empty session, as
            observed, or an error, as documented.
        latency: Delay before every answer.
        errors: Whether a wrong key leads to an HTTP status or to a JSON-RPC error.
        replies: Whether MCP answers by JSON or by server-sent events.
        old_form_only: The REST API has `/code/execute`, but not `/executions`.
        hang: Duration of a request that hangs.
        faults: The faults to inject.
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

    def __post_init__(self) -> None:
        convert_durations(self, "cooldown", "latency", "hang")
