"""Checks of this machine: settings, Python, packages, isolation, a kernel, a port."""

from __future__ import annotations

import os
import platform
import re
import socket
import stat
import sys
from importlib.metadata import PackageNotFoundError, metadata, version

import anyio
import anyio.to_thread

from cci_plugins.common.settings import Settings, find_unknown_variables, get_variable_name
from cci_plugins.errors import ConfigurationError, IsolationError
from cci_plugins.mcp_client.client import parse_endpoint_url
from cci_plugins.pools.local.isolation.memory_cgroup import find_cgroup_parent

from .context import Check, Context
from .findings import Outcome, SkipCheckError

_OLDEST, _NEWEST = (3, 11), (3, 13)
_PORT = 8765
_WEAK_BACKENDS = {
    "landlock": "sudo apt install bubblewrap; if it is there, allow it to create user namespaces",
    "NONE": "unset CCI_ISOLATION, which is only for code that you have read yourself",
}
_MEMORY_COUNTED = "memory of a session is counted by the application, not by a memory cgroup"
_MEMORY_BOUND = "memory of a session is counted by the application and bound by a memory cgroup"
_NOT_LOCAL = "code runs in a session pool, not on this machine"
# The first package of each extra that a pool needs.
_REQUIRED_PACKAGES = {"local": "ipykernel", "azure": "azure-identity"}
_FRAMEWORKS = {
    "agent-framework": "agent-framework-core",
    "deepagents": "deepagents",
    "foundry": "azure-ai-projects",
    "langchain": "langchain-core",
    "openai-agents": "openai-agents",
    "semantic-kernel": "semantic-kernel",
}
_REQUIREMENT = re.compile(r"^([\w.-]+)(?:\[[^\]]*\])?\s*([^;]*);.*extra\s*==\s*['\"]([\w-]+)['\"]")
_BOUND = re.compile(r"(>=|<)\s*([\d.]+)")


async def _check_settings(_: Context) -> Outcome:
    settings = Settings.read(check=False)
    settings.check()
    if (outcome := _check_endpoints(settings) or _check_unread_variables()) is not None:
        return outcome
    has_secret = any(
        (settings.mcp_key, settings.access_token, settings.storage_key, settings.session_secret)
    )
    try:
        mode = await anyio.to_thread.run_sync(os.stat, settings.file.name)
    except OSError:
        return Outcome.ok(f"the environment selects the pool {settings.chosen_pool}")
    if has_secret and sys.platform != "win32" and mode.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return Outcome.warning(
            f"other users of this machine can read {settings.file.name}, which may contain a key",
            f"chmod 600 {settings.file.name}",
        )
    return Outcome.ok(
        f"the environment and {settings.file.name} select the pool {settings.chosen_pool}"
    )


def _check_endpoints(settings: Settings) -> Outcome | None:
    for setting in ("endpoint", "mcp_endpoint"):
        try:
            parse_endpoint_url(getattr(settings, setting) or "https://not.set")
        except ConfigurationError as error:
            return Outcome.failed(f"{get_variable_name(setting)}: {error}", error.hint or "")
    return None


def _check_unread_variables() -> Outcome | None:
    """Find a variable that nobody reads, since most often its name is misspelt."""
    for name, nearest in find_unknown_variables().items():
        suggestion = f". Did you mean {nearest}?" if nearest else ""
        return Outcome.warning(f"{name} is not a setting{suggestion}", f"rename or unset {name}")
    return None


async def _check_python(_: Context) -> Outcome:
    running = sys.version_info[:2]
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if running < _OLDEST:
        return Outcome.failed(f"{python} is too old", "install Python 3.13")
    if running > _NEWEST:
        return Outcome.warning(f"{python} is newer than the tested versions", "use Python 3.13")
    return Outcome.ok(python)


async def _check_versions(context: Context) -> Outcome:
    missing = [
        extra
        for extra in _list_needed_extras(context.settings)
        if not _find_version(_REQUIRED_PACKAGES[extra])
    ]
    if missing:
        return Outcome.failed(
            f"the extra {missing[0]} is not installed, but these settings need it",
            f'pip install "cci-plugins[{missing[0]}]"',
        )
    conflicts = [line for extra in _FRAMEWORKS for line in _find_version_conflicts(extra)]
    if conflicts:
        extra, message = conflicts[0]
        return Outcome.warning(message, f'pip install "cci-plugins[{extra}]"')
    frameworks = [
        f"{name} {_find_version(name)}" for name in _FRAMEWORKS.values() if _find_version(name)
    ]
    return Outcome.ok(
        f"cci-plugins {_find_version('cci-plugins') or 'from source'}; {_format_list(frameworks)}"
    )


def _list_needed_extras(settings: Settings) -> list[str]:
    """Return the extras of this package that the settings need."""
    extras = ["local"] if settings.chosen_pool == "local" else []
    signs_in = settings.chosen_pool == "custom" and settings.access_token is None
    if signs_in or settings.resource_id or settings.storage_account:
        extras.append("azure")
    return extras


def _find_version_conflicts(extra: str) -> list[tuple[str, str]]:
    """Return the extra and a message if the installed framework has an unsupported version."""
    name = _FRAMEWORKS[extra]
    if not (found := _find_version(name)):
        return []
    for line in _read_requirements():
        match = _REQUIREMENT.match(line)
        if match is None or (match[1].lower(), match[3]) != (name, extra):
            continue
        for sign, bound in _BOUND.findall(match[2]):
            if (_parse_version(found) < _parse_version(bound)) != (sign == "<"):
                return [(extra, f"{name} {found} is installed, but {match[2].strip()} is required")]
    return []


def _read_requirements() -> list[str]:
    try:
        return metadata("cci-plugins").get_all("Requires-Dist") or []
    except PackageNotFoundError:
        return []


def _parse_version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _format_list(names: list[str]) -> str:
    return ", ".join(names) or "no framework"


async def _check_isolation(context: Context) -> Outcome:
    if not context.is_local:
        raise SkipCheckError(_NOT_LOCAL)
    try:
        description = await (await context.open_interpreter()).describe()
    except (ConfigurationError, IsolationError) as error:
        fix = "" if context.settings.python is None else "correct or unset CCI_PYTHON"
        return Outcome.failed(context.mask.clean_text(str(error)), error.hint or fix)
    backend = description.partition(": ")[2] or description
    has_cgroup = await anyio.to_thread.run_sync(find_cgroup_parent) is not None
    memory = _MEMORY_BOUND if has_cgroup else _MEMORY_COUNTED
    weaker = next((fix for name, fix in _WEAK_BACKENDS.items() if backend.startswith(name)), None)
    if weaker is not None:
        return Outcome.warning(
            f"the isolation is weaker than it could be: {backend}; {memory}", weaker
        )
    return Outcome.ok(f"{backend}; {memory}")


async def _check_kernel(context: Context) -> Outcome:
    if not context.is_local:
        raise SkipCheckError(_NOT_LOCAL)
    execution = await (await context.open_interpreter()).session("doctor").run_code("1+1")
    execution.raise_for_error()
    if execution.text.strip() != "2":
        return Outcome.failed(f"a kernel returned {execution.text[:40]!r} for 1+1", "cci run '1+1'")
    return Outcome.ok("a kernel ran 1+1")


async def _check_port(_: Context) -> Outcome:
    try:
        await anyio.to_thread.run_sync(_listen, 0)
    except OSError as error:
        return Outcome.failed(
            f"cannot listen on 127.0.0.1 ({error.strerror})",
            "allow this user to listen on 127.0.0.1, as a kernel and cci serve do",
        )
    try:
        await anyio.to_thread.run_sync(_listen, _PORT)
    except OSError:
        return Outcome.warning(f"port {_PORT} of cci serve is in use", "cci serve --port 0")
    return Outcome.ok(f"port {_PORT} is free for cci serve")


def _listen(port: int) -> None:
    with socket.socket() as listener:
        if sys.platform != "win32":  # on Windows this would accept a port in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()


CHECKS = (
    Check("local.settings", _check_settings, "correct the setting in the message"),
    Check("local.python", _check_python, "install Python 3.11 to 3.13"),
    Check("local.versions", _check_versions, 'pip install "cci-plugins[all]"', ("local.settings",)),
    Check("local.isolation", _check_isolation, "apt install bubblewrap", ("local.versions",)),
    Check("local.kernel", _check_kernel, "cci --debug run '1+1'", ("local.isolation",)),
    Check("local.port", _check_port, "cci serve --port 0"),
)
