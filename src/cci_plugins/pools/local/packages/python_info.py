"""What a Python is, and how uv is asked for wheels of another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.local.isolation.managed_process import run_program

if TYPE_CHECKING:
    from cci_plugins.pools.package_exchange import PythonInfo

_CODE = """
import json, platform, sys, sysconfig
print(json.dumps({
    "implementation": sys.implementation.name,
    "version": "%d.%d.%d" % sys.version_info[:3],
    "system": sys.platform,
    "machine": platform.machine(),
    "libc": list(platform.libc_ver()) if sys.platform == "linux" else ["", ""],
    "freeThreaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
}))
"""
_GLIBC_MINORS = (17, 28, *range(31, 41))  # of the platforms that uv knows
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_SYSTEMS = {"darwin": "apple-darwin", "win32": "pc-windows-msvc"}


async def describe_python(python: Path) -> PythonInfo:
    """Run an interpreter to describe it."""
    from cci_plugins.pools.package_exchange import PythonInfo  # noqa: PLC0415 - not at the start

    _, printed = await run_program(python, "-I", "-c", _CODE)
    return PythonInfo.load(json.loads(printed), "description of a Python")


def list_target_options(python: PythonInfo) -> tuple[str, ...]:
    """Return the options by which uv downloads wheels for a Python of another machine.

    Raises:
        ConfigurationError: uv cannot be asked for it.
    """
    platform = _find_platform(python)
    if platform is None or python.implementation != "cpython" or python.free_threaded:
        raise ConfigurationError(
            f"no packages can be downloaded for {python.implementation} {python.version} "
            f"on {python.system} ({python.machine})",
            hint="build the image of the sessions with the packages",
        )
    return ("--python-version", python.version, "--python-platform", platform)


def _find_platform(python: PythonInfo) -> str | None:
    machine = _MACHINES.get(python.machine.lower(), python.machine.lower())
    if machine not in _MACHINES.values():
        return None
    if python.system in _SYSTEMS:
        return f"{machine}-{_SYSTEMS[python.system]}"
    if python.system != "linux":
        return None
    name, version = python.libc
    if name != "glibc":
        return f"{machine}-unknown-linux-musl"
    minor = version.partition(".")[2]
    fitting = [each for each in _GLIBC_MINORS if minor.isdecimal() and each <= int(minor)]
    return f"{machine}-manylinux_2_{fitting[-1]}" if fitting else None
