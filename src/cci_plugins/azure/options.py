"""Address of Azure Resource Manager, sign-in and waiting times."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from cci_plugins.common.durations import convert_durations

from .credentials import TokenCredential

ARM = "https://management.azure.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Azure:
    """Address, sign-in and waiting times for Azure Resource Manager. Numbers mean seconds.

    Attributes:
        credential: A credential of azure-identity, or a token for Resource Manager.
            `DefaultAzureCredential` when None.
        endpoint: Resource Manager's address. Sovereign clouds have another one.
        polling: Time between two looks at a long operation, where Azure names none.
        patience: Longest duration of one step.
        settling: Longest time until a new role is known everywhere.
        ca: Certificate authorities to trust instead of the system's, as a file. The variable
            SSL_CERT_FILE does the same for the whole process.
    """

    credential: TokenCredential | str | None = field(default=None, repr=False)
    endpoint: str = ARM
    polling: timedelta = timedelta(seconds=5)
    patience: timedelta = timedelta(minutes=75)
    settling: timedelta = timedelta(minutes=10)
    ca: Path | None = None

    def __post_init__(self) -> None:
        convert_durations(self, "polling", "patience", "settling")
