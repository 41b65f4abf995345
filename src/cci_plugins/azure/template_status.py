"""Why a custom pool is not ready: what Azure reports about the containers of its sessions.

Only previews of the API have it, so a pool is judged without it where Azure refuses the preview.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cci_plugins.errors import AuthenticationError

from . import api_versions
from .failures import ArmError
from .resource import lowercase_keys
from .resource_manager import ArmClient

_STEP = "session pool"


@dataclass(frozen=True, slots=True)
class TemplateStatus:
    """State of a custom pool's containers, as Azure counts them.

    Attributes:
        expected: Number of containers that should be ready.
        ready: Number of containers that are ready.
        failed_pulls: Number of times that the image could not be pulled.
        crashes: Number of times that a container ended by itself.
        details: Azure's own text, which may be empty.
    """

    expected: int
    ready: int
    failed_pulls: int
    crashes: int
    details: str

    @property
    def problem(self) -> str | None:
        """The reason why no container is ready, or None while Azure counts no failure."""
        if self.ready > 0 or not (self.failed_pulls or self.crashes):
            return None
        parts = []
        if self.failed_pulls:
            parts.append(f"its image could not be pulled ({self.failed_pulls} times)")
        if self.crashes:
            parts.append(f"its container crashed ({self.crashes} times)")
        more = f": {self.details}" if self.details else ""
        return f"{' and '.join(parts)}; {self.ready} of {self.expected} sessions are ready{more}"


async def read_template_status(arm: ArmClient, pool_id: str) -> TemplateStatus | None:
    """Return the state of a custom pool's containers, or None if Azure does not report it.

    Args:
        arm: Client of Resource Manager.
        pool_id: Resource id of the pool.
    """
    try:
        found = await arm.get(pool_id, api_versions.TEMPLATE_STATUS, step=_STEP)
    except (ArmError, AuthenticationError):
        return None
    properties = lowercase_keys((found or {}).get("properties"))
    update = lowercase_keys(properties.get("templateupdatestatus"))
    template = update.get("desiredtemplate") or update.get("activetemplate")
    return _parse(template) if isinstance(template, Mapping) else None


def _parse(template: Mapping[str, Any]) -> TemplateStatus:
    values = lowercase_keys(template)
    status = lowercase_keys(values.get("status"))

    def count(name: str) -> int:
        value = status.get(name)
        return value if isinstance(value, int) else 0

    return TemplateStatus(
        expected=count("expectedcount"),
        ready=count("readycount"),
        failed_pulls=count("imagepullfailcount"),
        crashes=count("crashcount"),
        details=" ".join(str(values.get("details") or "").split())[:300],
    )
