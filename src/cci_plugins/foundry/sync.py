"""Blocking versions of the functions, for code without `await`."""

from __future__ import annotations

from collections.abc import Sequence

from azure.ai.projects.models import Tool

from cci_plugins.azure.credentials import TokenCredential
from cci_plugins.common import event_loop
from cci_plugins.common.approval import Approver
from cci_plugins.common.durations import Duration

from . import agents, connections
from .agents import Agent
from .connections import Connection
from .environments import Environment
from .project import Project
from .replies import Reply

__all__ = ["connect", "create_agent", "delete_agent", "disconnect", "run"]


def connect(
    project: Project | None = None,
    *,
    endpoint: str | None = None,
    key: str | None = None,
    pool: str | None = None,
    name: str = connections.NAME,
    replace: bool = False,
    credential: TokenCredential | None = None,
) -> Connection:
    """Call `cci_plugins.foundry.connect` and block until it returns."""
    return event_loop.run_blocking(
        lambda: connections.connect(
            project,
            endpoint=endpoint,
            key=key,
            pool=pool,
            name=name,
            replace=replace,
            credential=credential,
        )
    )


def disconnect(
    project: Project | None = None,
    *,
    name: str = connections.NAME,
    credential: TokenCredential | None = None,
) -> bool:
    """Call `cci_plugins.foundry.disconnect` and block until it returns."""
    return event_loop.run_blocking(
        lambda: connections.disconnect(project, name=name, credential=credential)
    )


def create_agent(
    name: str,
    *,
    model: str | None = None,
    instructions: str = "",
    tool: Tool | None = None,
    more_tools: Sequence[Tool] = (),
    project: Project | None = None,
) -> Agent:
    """Call `cci_plugins.foundry.create_agent` and block until it returns."""
    return event_loop.run_blocking(
        lambda: agents.create_agent(
            name,
            model=model,
            instructions=instructions,
            tool=tool,
            more_tools=more_tools,
            project=project,
        )
    )


def delete_agent(agent: Agent, *, all_versions: bool = False) -> bool:
    """Call `cci_plugins.foundry.delete_agent` and block until it returns."""
    return event_loop.run_blocking(lambda: agents.delete_agent(agent, all_versions=all_versions))


def run(
    agent: Agent,
    prompt: str,
    *,
    approve: Approver | None = None,
    environment: Environment | None = None,
    previous: Reply | None = None,
    rounds: int = agents.ROUNDS,
    timeout: Duration = agents.TIMEOUT,
) -> Reply:
    """Call `cci_plugins.foundry.run` and block until it returns.

    `approve` is awaited on the package's own event loop.
    """
    return event_loop.run_blocking(
        lambda: agents.run(
            agent,
            prompt,
            approve=approve,
            environment=environment,
            previous=previous,
            rounds=rounds,
            timeout=timeout,
        )
    )
