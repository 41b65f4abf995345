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

from pydantic import Field

from cci_plugins.mcp_client.wire_model import Text, WireModel

from .package_pools import MAX_WHEELS

PACKAGES_KEY = "cci_plugins/packages"  # in the server's experimental capabilities
_NAME_CHARACTERS = 250


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
