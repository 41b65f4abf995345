"""Checks of this machine: settings, Python, packages, the fence, a kernel, a port."""

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

from .check import Check
from .context import Context
from .findings import Outcome, SkipCheckError, report_failure, report_ok, report_warning

_OLDEST, _NEWEST = (3, 11), (3, 13)
_PORT = 8765
_WEAK_BACKENDS = {
    "landlock": "sudo apt install bubblewrap; where it is there, let it make user namespaces",
    "NONE": "unset CCI_ISOLATION; this is for code that you have read yourself",
}
_REMOTE_ONLY = "code runs in a session pool elsewhere"
# The extra that each pool needs, and what it brings first.
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
    known = Settings.read(check=False)
    known.check()
    if (wrong := _check_endpoints(known) or _check_unread_variables()) is not None:
        return wrong
    has_secret = any((known.mcp_key, known.access_token, known.storage_key, known.session_secret))
    try:
        mode = await anyio.to_thread.run_sync(os.stat, ".env")
    except OSError:
        return report_ok(f"the environment asks for the pool {known.chosen_pool}")
    if has_secret and sys.platform != "win32" and mode.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return report_warning(
            "others on this machine can read .env, which may hold a key", "chmod 600 .env"
        )
    return report_ok(f"the environment and .env ask for the pool {known.chosen_pool}")


def _check_endpoints(known: Settings) -> Outcome | None:
    for setting in ("endpoint", "mcp_endpoint"):
        try:
            parse_endpoint_url(getattr(known, setting) or "https://not.set")
        except ConfigurationError as error:
            return report_failure(f"{get_variable_name(setting)}: {error}", error.hint or "")
    return None


def _check_unread_variables() -> Outcome | None:
    """A variable that nobody reads is most often one that was misspelt."""
    for name, nearest in find_unknown_variables().items():
        meant = f"; is {nearest} meant?" if nearest else ""
        return report_warning(f"{name} is not a setting{meant}", f"rename or unset {name}")
    return None


async def _check_python(_: Context) -> Outcome:
    running = sys.version_info[:2]
    words = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if running < _OLDEST:
        return report_failure(f"{words} is too old", "install Python 3.13")
    if running > _NEWEST:
        return report_warning(f"{words} is newer than any that was tested", "use Python 3.13")
    return report_ok(words)


async def _check_versions(context: Context) -> Outcome:
    missing = [
        extra
        for extra in _list_needed_extras(context.settings)
        if not _find_version(_REQUIRED_PACKAGES[extra])
    ]
    if missing:
        return report_failure(
            f"these settings need the extra {missing[0]}, which is not installed",
            f'pip install "cci-plugins[{missing[0]}]"',
        )
    wrong = [line for extra in _FRAMEWORKS for line in _find_version_conflicts(extra)]
    if wrong:
        extra, words = wrong[0]
        return report_warning(words, f'pip install "cci-plugins[{extra}]"')
    found = [
        f"{name} {_find_version(name)}" for name in _FRAMEWORKS.values() if _find_version(name)
    ]
    return report_ok(
        f"cci-plugins {_find_version('cci-plugins') or 'from source'}; {_format_list(found)}"
    )


def _list_needed_extras(settings: Settings) -> list[str]:
    """The extras that settings need."""
    extras = ["local"] if settings.chosen_pool == "local" else []
    signs_in = settings.chosen_pool == "custom" and settings.access_token is None
    if signs_in or settings.resource_id or settings.storage_account:
        extras.append("azure")
    return extras


def _find_version_conflicts(extra: str) -> list[tuple[str, str]]:
    """The framework of an extra, when another release of it is installed than the extra takes."""
    name = _FRAMEWORKS[extra]
    if not (found := _find_version(name)):
        return []
    for line in _read_requirements():
        match = _REQUIREMENT.match(line)
        if match is None or (match[1].lower(), match[3]) != (name, extra):
            continue
        for sign, bound in _BOUND.findall(match[2]):
            if (_parse_version(found) < _parse_version(bound)) != (sign == "<"):
                return [(extra, f"{name} {found} is installed, and {match[2].strip()} is needed")]
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
        raise SkipCheckError(_REMOTE_ONLY)
    try:
        words = await (await context.open_interpreter()).describe()
    except (ConfigurationError, IsolationError) as error:
        other = "" if context.settings.python is None else "correct or unset CCI_PYTHON"
        return report_failure(context.mask.text(str(error)), error.hint or other)
    backend = words.partition(": ")[2] or words
    weaker = next((fix for name, fix in _WEAK_BACKENDS.items() if backend.startswith(name)), None)
    if weaker is not None:
        return report_warning(f"the fence is weaker than it could be: {backend}", weaker)
    return report_ok(backend)


async def _check_kernel(context: Context) -> Outcome:
    if not context.is_local:
        raise SkipCheckError(_REMOTE_ONLY)
    execution = await (await context.open_interpreter()).session("doctor").run_code("1+1")
    execution.raise_for_error()
    if execution.text.strip() != "2":
        return report_failure(f"a kernel answered {execution.text[:40]!r} to 1+1", "cci run '1+1'")
    return report_ok("a kernel ran 1+1")


async def _check_port(_: Context) -> Outcome:
    try:
        await anyio.to_thread.run_sync(_listen, 0)
    except OSError as error:
        return report_failure(
            f"no port of 127.0.0.1 can be listened on ({error.strerror})",
            "allow this user to listen on loopback; a kernel and cci serve need it",
        )
    try:
        await anyio.to_thread.run_sync(_listen, _PORT)
    except OSError:
        return report_warning(f"port {_PORT} of cci serve is in use", "cci serve --port 0")
    return report_ok(f"port {_PORT} is free for cci serve")


def _listen(port: int) -> None:
    with socket.socket() as listener:
        if sys.platform != "win32":  # there it would take a port that is in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()


CHECKS = (
    Check("local.settings", _check_settings, "correct the setting that is named"),
    Check("local.python", _check_python, "install Python 3.11 to 3.13"),
    Check("local.versions", _check_versions, 'pip install "cci-plugins[all]"', ("local.settings",)),
    Check("local.isolation", _check_isolation, "apt install bubblewrap", ("local.versions",)),
    Check("local.kernel", _check_kernel, "cci --debug run '1+1'", ("local.isolation",)),
    Check("local.port", _check_port, "cci serve --port 0"),
)
