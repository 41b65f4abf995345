"""A Foundry project and a session pool on loopback, as the environment would name them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from tests.integration._emulated import KEY, emulated
from tests.integration._foundry import MODEL, PROJECT_ID, analyst, serving_foundry

from cci_plugins import LocalSessionPool


@contextmanager
def foundry_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve both. Only the sign-in and the trusted certificate are replaced."""
    project = pytest.importorskip("cci_plugins.foundry.project")

    def from_env(_: type, **__: Any) -> Any:
        return project.Project(
            running.endpoint,
            credential=running.credential,
            arm_endpoint=running.url,
            ca_file=running.ca,
        )

    with (
        serving_foundry(folder, analyst) as running,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(
            emulated(LocalSessionPool(preload=()), kind="platform")
        ) as pool,
    ):
        monkeypatch.setattr(project.Project, "from_env", classmethod(from_env))
        monkeypatch.setenv("AZURE_SESSION_POOL_MCP_ENDPOINT", f"{pool.url}/mcp")
        monkeypatch.setenv("AZURE_SESSION_POOL_MCP_KEY", KEY)
        monkeypatch.setenv("FOUNDRY_MODEL_DEPLOYMENT_NAME", MODEL)
        connection = f"{PROJECT_ID}/connections/code-interpreter"
        monkeypatch.setenv("MCP_PROJECT_CONNECTION_ID", connection)
        running.fake.connections["code-interpreter"] = {
            "properties": {
                "category": "RemoteTool",
                "authType": "CustomKeys",
                "target": f"{pool.url}/mcp",
                "credentials": {"keys": {"x-ms-apikey": KEY}},
            }
        }
        yield
