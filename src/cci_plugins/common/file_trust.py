"""What a settings file may decide that nobody named, such as the `.env` of an opened folder.

Such a file may name a pool and bring its key. It may not choose what runs on this machine outside
the sandbox, and no key or token that it does not contain is sent to an endpoint that it contains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cci_plugins.errors import ConfigurationError

from .azure_hosts import Service, may_get_sign_in
from .env_file import EnvFile

Settings: TypeAlias = Any  # `.settings` imports this module
# They decide what runs outside the sandbox and how well it is sandboxed, what this machine trusts
# and connects to, and how much of it sessions use. Each new setting of this kind belongs here.
NAMED_FILE_ONLY = frozenset(
    {
        "python",
        "packages",
        "isolation",
        "egress",
        "fetch_hosts_text",
        "storage_ca_file",
        "arm_endpoint",
        "container_cpu",
        "container_memory",
        "env_file",
    }
)
# The largest numbers that such a file may set, so that it cannot lift a limit.
_LARGEST = {
    "timeout": 3_600,
    "background_timeout": 14_400,
    "cooldown": 86_400,
    "output_characters": 200_000,
    "sessions": 100,
    "ready_sessions": 10,
}
# Endpoints, and the secrets that are sent to each.
_SECRETS = {
    "mcp_endpoint": ("mcp_key", "access_token"),
    "endpoint": ("access_token",),
    "storage_account": ("storage_key",),
}


@dataclass(frozen=True, slots=True)
class FileTrust:
    """The settings that a file decided, and the rules for a file that nobody named.

    Attributes:
        file: The file.
        chosen: Settings that it decided, each with its variable.
        get_name: Returns the variable of any setting.
    """

    file: EnvFile = field(default_factory=EnvFile)
    chosen: Mapping[str, str] = field(default_factory=dict)
    get_name: Callable[[str], str] = str

    def check(self, settings: Settings) -> None:
        """Refuse what a file that nobody named must not decide.

        Raises:
            ConfigurationError: It decides such a setting. The hint holds the next step.
        """
        if self.file.is_named:
            return
        for setting, name in self.chosen.items():
            self._check_setting(settings, setting, name)
        for endpoint, secrets in _SECRETS.items():
            if endpoint != "storage_account" or settings.storage_container is not None:
                self.check_secrets(settings, endpoint, secrets)

    def check_sign_ins(self, settings: Settings, services: tuple[Service, ...]) -> None:
        """Refuse to send tokens of a sign-in to an endpoint of such a file that is not Azure's.

        Raises:
            ConfigurationError: One of these services has such an endpoint.
        """
        for endpoint, service in _list_sign_ins(settings):
            is_checked = service in services and self.decides(settings, endpoint)
            if is_checked and not may_get_sign_in(str(getattr(settings, endpoint)), service):
                raise self._build_error(
                    self.get_name(endpoint),
                    "is not a host of Azure's own, so it gets a token of your sign-in",
                )

    def decides(self, settings: Settings, endpoint: str) -> bool:
        """Return whether an endpoint is that of a file that nobody named."""
        if self.file.is_named:
            return False
        if endpoint == "mcp_endpoint" and settings.mcp_endpoint == settings.mcp_server_url:
            return settings.mcp_endpoint is not None and "mcp_server_url" in self.chosen
        return endpoint in self.chosen

    def check_secrets(self, settings: Settings, endpoint: str, secrets: tuple[str, ...]) -> None:
        """Refuse to send secrets of the environment to an endpoint of such a file.

        Raises:
            ConfigurationError: One of them is not from the file itself.
        """
        if not self.decides(settings, endpoint):
            return
        for secret in secrets:
            if getattr(settings, secret) is not None and secret not in self.chosen:
                raise self._build_error(
                    self.get_name(endpoint), f"gets the environment's {self.get_name(secret)}"
                )

    def check_session_variables(self, names: set[str]) -> None:
        """Refuse to pass values of the environment into sessions.

        Args:
            names: The file's variables for sessions.

        Raises:
            ConfigurationError: One of them refers to the environment.
        """
        for name in sorted(names & set(self.file.borrowed)):
            raise self._build_borrow_error(name)

    def _check_setting(self, settings: Settings, setting: str, name: str) -> None:
        if setting in NAMED_FILE_ONLY:
            raise self._build_error(name, "is read")
        most = _LARGEST.get(setting)
        if most is not None and getattr(settings, setting) > most:
            raise self._build_error(name, f"may be above {most:,}")
        if name in self.file.borrowed:
            raise self._build_borrow_error(name)

    def _build_borrow_error(self, name: str) -> ConfigurationError:
        return self._build_error(
            name, f"may contain the environment's {self.file.borrowed[name][:60]!a}"
        )

    def _build_error(self, name: str, fact: str) -> ConfigurationError:
        path = self.file.name
        return ConfigurationError(
            f"{name} in ./{path} {fact} only when you name that file",
            hint=f"if you trust the file, set CCI_ENV_FILE={path} or pass --env-file {path}; "
            f"if not, remove {name} from it or set it in the environment",
        )


def _list_sign_ins(settings: Settings) -> Iterator[tuple[str, Service]]:
    """Yield the endpoints that get a token of a sign-in, or a key that one fetched."""
    if settings.foundry_endpoint is not None:
        yield "foundry_endpoint", "foundry"
    if settings.endpoint is not None and settings.access_token is None:
        yield "endpoint", "sessions"
    if settings.mcp_endpoint and (settings.mcp_key is None or settings.resource_id is not None):
        yield "mcp_endpoint", "sessions"
    account = settings.storage_account
    if settings.storage_container and settings.storage_key is None and "://" in (account or ""):
        yield "storage_account", "storage"
