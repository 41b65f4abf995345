"""Pools that take packages from another machine. Their messages are in `package_exchange`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

PART_BYTES = 3_000_000  # as base64 below the 4 MiB of one request
MAX_WHEELS = 500


@dataclass(frozen=True, slots=True)
class PackageOptions:
    """Where the host downloads packages for sessions of other machines.

    Attributes:
        index: A folder of wheels or the address of an index. None for the installer's default.
        allowed: Names that may be installed, with what they need. None for any.
        lock: A requirements file with the only versions and their hashes. None for any.
    """

    index: str | PathLike[str] | None = field(default=None, repr=False)  # it may hold a password
    allowed: Sequence[str] | None = None
    lock: str | PathLike[str] | None = None


class PackageExchange(ABC):
    """A pool that takes wheels that another machine downloaded."""

    @abstractmethod
    async def exchange_packages(
        self, session_id: str, message: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Answer one message about the packages of a session.

        Args:
            session_id: The session.
            message: An empty one, a `WheelPart` or a `WheelList`, as JSON.

        Raises:
            ConfigurationError: The pool cannot install packages, or not these. Nothing changed.
            ValidationError: The message is malformed.
        """


class RemotePackages(PackageExchange):
    """A pool of another machine, for which this one downloads packages.

    Attributes:
        package_options: Where it downloads them.
    """

    package_options: PackageOptions
