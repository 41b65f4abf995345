"""How Azure Resource Manager is reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from .credentials import TokenCredential
from .pool_resource import ARM


@dataclass(frozen=True, slots=True, kw_only=True)
class Azure:
    """How Azure is reached.

    Attributes:
        credential: A credential of azure-identity, or a token for Resource Manager;
            `DefaultAzureCredential` when None.
        endpoint: Resource Manager's address; another one in sovereign clouds.
        polling: Between two looks at what takes long, where Azure names no time.
        patience: How long one step may take.
        settling: How long a new role may take until it is known everywhere.
        ca: Certificate authorities to trust instead of the system's, as a file; the variable
            SSL_CERT_FILE does the same for the whole process.
    """

    credential: TokenCredential | str | None = field(default=None, repr=False)
    endpoint: str = ARM
    polling: timedelta = timedelta(seconds=5)
    patience: timedelta = timedelta(minutes=75)
    settling: timedelta = timedelta(minutes=10)
    ca: Path | None = None
