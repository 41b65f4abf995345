"""Messages by which a host gives packages to a session of another machine: `PackageExchange`.

The host asks the server of the session for its Python, downloads wheels for it, and sends them in
parts that fit a request. Every message may be sent twice:

1. An empty message starts an upload. The answer (`SessionPython`) names it, and describes the
   session's Python and its packages. An earlier upload of the session is dropped.
2. A part of a wheel (`WheelPart`) has the place where it begins. One that arrived before changes
   nothing.
3. The last message (`WheelList`) names each wheel with its size and hash. All of them are then
   installed, or none. Its answer has the new versions, also when it is sent again.

A gateway passes messages on as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from pydantic import Field

from cci_plugins.mcp_client.wire_model import Text, WireModel

PACKAGES_KEY = "cci_plugins/packages"  # in the server's experimental capabilities
PART_BYTES = 3_000_000  # as base64 below the 4 MiB of one request
MAX_WHEELS = 500
_NAME_CHARACTERS = 250


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


class PythonInfo(WireModel):
    """What decides which wheels fit a Python.

    Attributes:
        implementation: Such as `cpython`.
        version: Such as `3.12.3`.
        system: Such as `linux`.
        machine: Such as `x86_64`.
        libc: Name and version of the C library on Linux. An empty name means another than glibc.
        free_threaded: Whether it is a build without the lock of the interpreter.
    """

    implementation: str
    version: str = Field(pattern=r"^\d+\.\d+\.\d+\w*$")
    system: str
    machine: str
    libc: list[str] = Field(min_length=2, max_length=2)
    free_threaded: bool


class SessionPython(WireModel):
    """The answer to the first message.

    Attributes:
        upload: Name of the upload, for the other messages.
        python: The Python of the session.
        installed: Versions of its packages by name.
        instance: The instance of the session, which the next run can require. Empty if unknown.
    """

    upload: str
    python: PythonInfo
    installed: dict[str, str]
    instance: str = ""


class WheelPart(WireModel):
    """A part of a wheel.

    Attributes:
        upload: The upload.
        name: File name of the wheel.
        at: Bytes of the wheel before this part.
        data: The bytes, as base64.
    """

    upload: Text
    name: str = Field(max_length=_NAME_CHARACTERS)
    at: int = Field(ge=0)
    data: str


class WheelFile(WireModel):
    """A whole wheel, by its file name, size and hash."""

    name: str = Field(max_length=_NAME_CHARACTERS)
    size: int = Field(ge=0)
    sha256: str


class WheelList(WireModel):
    """The last message of an upload."""

    upload: Text
    wheels: list[WheelFile] = Field(min_length=1, max_length=MAX_WHEELS)


class Versions(WireModel):
    """The answer to the last message: new versions by name."""

    versions: dict[str, str]


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
