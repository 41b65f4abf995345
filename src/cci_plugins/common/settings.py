"""Settings from environment variables. Only this module contains the variables' names."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from difflib import get_close_matches
from functools import cache, partial
from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cci_plugins.errors import ConfigurationError

from .azure_hosts import Service
from .env_file import EnvFile, read_env_file
from .file_trust import FileTrust
from .limits import Limits
from .log import logger
from .number_errors import build_number_error

PoolName = Literal["local", "platform", "custom"]
# The rest of such a variable's name is the name that code in a session sees.
SESSION_ENV_PREFIX = "CCI_SESSION_ENV_"
PRELOAD = ("numpy", "pandas", "matplotlib.pyplot")
IsolationName = Literal["auto", "bwrap", "landlock", "seatbelt", "process"]


def _define_setting(default: Any, *names: str, doc: str) -> Any:
    return Field(default=default, validation_alias=AliasChoices(*names), description=doc)


_define_optional = partial(_define_setting, None)
# The MCP endpoint of a managed pool, which holds the parts of its resource id.
_POOL_URL = re.compile(
    r"https://[\w.-]+\.dynamicsessions\.io/subscriptions/(?P<subscription>[^/]+)"
    r"/resourceGroups/(?P<group>[^/]+)/sessionPools/(?P<pool>[^/]+)/mcp",
    re.IGNORECASE,
)
_YEAR = 365 * 24 * 3600
# of numbers: the smallest, the largest (in practice unlimited) and the unit
_BOUNDS: dict[str, tuple[float, int, str]] = {
    "CCI_TIMEOUT": (0.1, _YEAR, "seconds"),
    "CCI_BACKGROUND_TIMEOUT": (0.1, _YEAR, "seconds"),
    "CCI_COOLDOWN": (1, _YEAR, "seconds"),
    "CCI_OUTPUT_CHARACTERS": (1, 10**9, "characters"),
    "CCI_SESSIONS": (1, 10_000, "sessions"),
    "CCI_READY_SESSIONS": (0, 1_000, "sessions"),
    "CCI_STAGE_FROM": (0, 10**15, "bytes"),
    "AZURE_STORAGE_CHECKPOINT_DAYS": (1, 36_500, "days"),
}


def _define_number(default: float | None, name: str, *, doc: str) -> Any:
    lowest, highest, _ = _BOUNDS[name]
    return Field(
        default=default,
        validation_alias=AliasChoices(name),
        description=f"{doc}. A number from {lowest:g} to {highest}. "
        "The largest means no limit in practice",
        ge=lowest,
        le=highest,
        allow_inf_nan=False,
    )


class Settings(BaseSettings):
    """Settings of `CodeInterpreter.from_env`, the tools and the command line.

    They are read from the environment and from a file, by default `.env` (`env_file`).
    """

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)
    _trust: FileTrust = PrivateAttr(default_factory=FileTrust)

    pool: PoolName | None = _define_optional(
        "CCI_POOL",
        doc="Where code runs: local, platform or custom. By default, the endpoints below decide",
    )
    mcp_endpoint: str | None = _define_optional(
        "AZURE_SESSION_POOL_MCP_ENDPOINT", doc="MCP endpoint of a session pool"
    )
    mcp_server_url: str | None = _define_optional(
        "MCP_SERVER_URL",
        doc="The same endpoint under the name of Microsoft's samples. Other tools use this name "
        "too, so it counts only in the form of a pool's own URL, with a key, or with CCI_POOL",
    )
    mcp_key: SecretStr | None = _define_optional(
        "AZURE_SESSION_POOL_MCP_KEY", doc="Key of that endpoint, sent as x-ms-apikey"
    )
    resource_id: str | None = _define_optional(
        "AZURE_SESSION_POOL_RESOURCE_ID",
        doc="Resource id of a platform pool. Its endpoint and key are fetched, and the key again "
        "when it was rotated",
    )
    endpoint: str | None = _define_optional(
        "AZURE_SESSION_POOL_ENDPOINT",
        "ACA_POOL_MANAGEMENT_ENDPOINT",
        doc="Management endpoint of a custom-container pool, or of a managed Python pool",
    )
    access_token: SecretStr | None = _define_optional(
        "CCI_ACCESS_TOKEN",
        doc="Token for https://dynamicsessions.io, instead of signing in to Azure",
    )
    arm_endpoint: str = _define_setting(
        "https://management.azure.com",
        "CCI_ARM_ENDPOINT",
        doc="Endpoint of Azure Resource Manager. Sovereign clouds have another one",
    )
    storage_account: str | None = _define_optional(
        "AZURE_STORAGE_ACCOUNT",
        doc="Storage account that larger files are staged in: its name, or its blob service's URL",
    )
    storage_container: str | None = _define_optional(
        "AZURE_STORAGE_CONTAINER", doc="Container of that account"
    )
    checkpoint_container: str | None = _define_optional(
        "AZURE_STORAGE_CHECKPOINT_CONTAINER", doc="Container of that account for saved sessions"
    )
    checkpoint_days: int = _define_number(
        30, "AZURE_STORAGE_CHECKPOINT_DAYS", doc="Days until that container deletes a checkpoint"
    )
    storage_key: SecretStr | None = _define_optional(
        "AZURE_STORAGE_KEY", doc="Key of that account, instead of signing in to Azure"
    )
    storage_ca_file: str | None = _define_optional(
        "CCI_STORAGE_CA_FILE",
        doc="Certificates to trust for that account in addition to the system's, in PEM",
    )
    stage_from: int | None = _define_number(
        None,
        "CCI_STAGE_FROM",
        doc="Size in bytes from which files are staged although the pool has a files API. By "
        "default only files that the API does not take",
    )
    fetch_hosts_text: str = _define_setting(
        "",
        "CCI_FETCH_HOSTS",
        doc="Hosts that files may be fetched from in addition to storage accounts, such as "
        "data.example.org,*.example.com",
    )
    egress: str = _define_setting(
        "none",
        "CCI_EGRESS",
        doc="Hosts that sessions of the embedded pool may reach: none, all, or names such as "
        "pypi.org,*.blob.core.windows.net",
    )
    subscription: str | None = _define_optional(
        "AZURE_SUBSCRIPTION_ID", doc="Subscription that `cci provision` works in"
    )
    resource_group: str | None = _define_optional(
        "AZURE_RESOURCE_GROUP", doc="Resource group that `cci provision` works in"
    )
    location: str | None = _define_optional(
        "AZURE_LOCATION", doc="Region that `cci provision` works in"
    )
    isolation: IsolationName = _define_setting(
        "auto",
        "CCI_ISOLATION",
        doc="Isolation of the embedded pool: auto, bwrap, landlock, seatbelt or process",
    )
    python: str | None = _define_optional(
        "CCI_PYTHON", doc="Python of the embedded pool's sessions, with ipykernel. Default: its own"
    )
    packages: str = _define_setting(
        "", "CCI_PACKAGES", doc="Packages for the embedded pool's sessions: polars duckdb>=1,<2"
    )
    preload: str = _define_setting(
        ",".join(PRELOAD), "CCI_PRELOAD", doc="Modules that a ready session has imported, or none"
    )
    timeout: float = _define_number(220, "CCI_TIMEOUT", doc="Longest run, in seconds")
    background_timeout: float = _define_number(
        3600, "CCI_BACKGROUND_TIMEOUT", doc="Longest run in the background, in seconds"
    )
    output_characters: int = _define_number(
        8_000, "CCI_OUTPUT_CHARACTERS", doc="Characters of one execution that a model may read"
    )
    sessions: int = _define_number(
        32, "CCI_SESSIONS", doc="Most sessions of the embedded pool at the same time"
    )
    ready_sessions: int = _define_number(
        1, "CCI_READY_SESSIONS", doc="Kernels the embedded pool keeps warm"
    )
    cooldown: float = _define_number(
        1800,
        "CCI_COOLDOWN",
        doc="Seconds without a call after which the embedded pool ends a session",
    )
    foundry_endpoint: str | None = _define_optional(
        "FOUNDRY_PROJECT_ENDPOINT",
        "AZURE_AI_PROJECT_ENDPOINT",
        doc="Microsoft Foundry project that agents are in: "
        "https://<account>.services.ai.azure.com/api/projects/<project>",
    )
    foundry_project_id: str | None = _define_optional(
        "AZURE_AI_PROJECT_ID", doc="Resource id of that project. Searched for when it is not set"
    )
    foundry_connection: str | None = _define_optional(
        "MCP_PROJECT_CONNECTION_ID",
        "AZURE_AI_CONNECTION_ID",
        doc="The project's connection to the session pool, created by `cci foundry connect`",
    )
    foundry_model: str | None = _define_optional(
        "FOUNDRY_MODEL_DEPLOYMENT_NAME",
        "FOUNDRY_MODEL_NAME",
        "AZURE_AI_MODEL_DEPLOYMENT_NAME",
        doc="Deployment of the model that the project's agents use",
    )
    container_cpu: float | None = _define_optional(
        "CCI_CONTAINER_CPU",
        doc="CPUs of the container that the embedded pool runs in. Numerical libraries start as "
        "many threads. By default two",
    )
    container_memory: str | None = _define_optional(
        "CCI_CONTAINER_MEMORY",
        doc="Memory of that container, such as 2Gi. Its sessions together may use it, less a "
        "reserve for the server. By default each session may use 2 GiB",
    )
    session_secret: SecretStr | None = _define_optional(
        "CCI_SESSION_SECRET",
        doc="Secret that session identifiers are derived from. With the same secret they are the "
        "same in every process. By default, the pool's key",
    )
    serve_key: SecretStr | None = _define_optional(
        "CCI_SERVE_KEY", doc="Key that clients of `cci serve` must send. By default, a new one"
    )
    env_file: str | None = _define_optional(
        "CCI_ENV_FILE",
        doc="File that these variables are read from as well. Naming it makes it trusted: without "
        "a name, `.env` in the current folder is read, but not for every setting",
    )

    @model_validator(mode="after")
    def _use_mcp_server_url(self) -> Self:
        """Take over MCP_SERVER_URL where it certainly names a session pool."""
        url = self.mcp_server_url
        if url is None or self.mcp_endpoint is not None:
            return self
        match = _POOL_URL.fullmatch(url.rstrip("/"))
        if match is not None:
            self.mcp_endpoint = url
            if self.resource_id is None:
                self.resource_id = (
                    f"/subscriptions/{match['subscription']}/resourceGroups/{match['group']}"
                    f"/providers/Microsoft.App/sessionPools/{match['pool']}"
                )
        elif self.mcp_key is not None or self.pool in {"platform", "custom"}:
            self.mcp_endpoint = url
        else:
            _note_ignored_url()
        return self

    @classmethod
    def read(cls, *, check: bool = True, env_file: str | os.PathLike[str] | None = None) -> Self:
        """Read the environment.

        Args:
            check: Whether to refuse an incomplete configuration of a pool.
            env_file: File to read besides the environment, instead of the one that `CCI_ENV_FILE`
                names.

        Raises:
            ConfigurationError: A value is invalid, the configuration of a pool is incomplete, or
                a file that nobody named has a setting that only a named one may have.
        """
        file = read_env_file(env_file or os.environ.get(get_variable_name("env_file")) or None)
        from_file = cls._select_values(file)
        try:
            given: dict[str, Any] = {name: file.values[name] for name in from_file.values()}
            settings = cls(**given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            if name in _BOUNDS:
                raise build_number_error(name, first["input"], *_BOUNDS[name]) from None
            raise ConfigurationError(
                f"{name}: {first['msg']}", hint=f"correct or unset {name}"
            ) from None
        settings._trust = FileTrust(file, from_file, get_variable_name)
        settings._trust.check(settings)
        if check:
            settings.check()
        return settings

    @classmethod
    def _select_values(cls, file: EnvFile) -> dict[str, str]:
        """Return the settings that a file decides, each with its variable.

        The environment wins, under whichever of a setting's names.
        """
        given = {name.upper() for name, value in os.environ.items() if value}
        chosen = {}
        for setting in cls.model_fields:
            names = list_variable_names(setting)
            if given.isdisjoint(names):
                name = next((one for one in names if file.values.get(one)), None)
                if name is not None:
                    chosen[setting] = name
        return chosen

    def check(self) -> None:
        """Refuse an incomplete configuration instead of using the embedded pool.

        Raises:
            ConfigurationError: A variable is missing.
        """
        if self.storage_container is not None and self.storage_account is None:
            raise ConfigurationError(
                "AZURE_STORAGE_CONTAINER is set, but AZURE_STORAGE_ACCOUNT is not",
                hint="set AZURE_STORAGE_ACCOUNT, or unset the container",
            )  # AZURE_STORAGE_ACCOUNT alone is fine, because the Azure CLI uses it too
        if self.ready_sessions > self.sessions:
            raise ConfigurationError(
                f"CCI_READY_SESSIONS ({self.ready_sessions}) is more than "
                f"CCI_SESSIONS ({self.sessions})",
                hint="lower CCI_READY_SESSIONS, or raise CCI_SESSIONS",
            )
        missing = self._find_missing_variable()
        if missing is not None:
            raise ConfigurationError(
                f"{missing} is not set, but the rest of a session pool's settings is",
                hint=f"set {missing}, or unset {self._name_causes()} to use the embedded pool",
            )

    def _name_causes(self) -> str:
        """Return the variables that select a pool, by the names under which they are set."""
        given = {*os.environ, *self._trust.file.values}
        names = []
        for setting in ("pool", "mcp_endpoint", "mcp_key", "resource_id", "endpoint"):
            if getattr(self, setting) is None:
                continue
            names += [one for one in list_variable_names(setting) if one in given][:1]
        if self.mcp_server_url is not None and self.mcp_endpoint == self.mcp_server_url:
            names.append("MCP_SERVER_URL")
        if self.access_token is not None:
            names.append(get_variable_name("access_token"))
        return ", ".join(names) or "the others"

    def _find_missing_variable(self) -> str | None:
        if self.chosen_pool == "platform" and self.resource_id is None:
            if self.mcp_endpoint is None:
                return "AZURE_SESSION_POOL_MCP_ENDPOINT"
            if self.mcp_key is None:
                return "AZURE_SESSION_POOL_MCP_KEY"
        has_only_token = self.pool is None and self.access_token is not None
        needs_endpoint = self.chosen_pool == "custom" or (
            self.chosen_pool == "local" and has_only_token
        )
        if needs_endpoint and self.endpoint is None:
            return "AZURE_SESSION_POOL_ENDPOINT"
        return None

    @property
    def chosen_pool(self) -> PoolName:
        """The pool that these settings select."""
        if self.pool is not None:
            return self.pool
        if self.mcp_endpoint or self.mcp_key or self.resource_id:
            return "platform"
        return "custom" if self.endpoint else "local"

    @property
    def fetch_hosts(self) -> tuple[str, ...]:
        """Hosts that files may be fetched from in addition to storage accounts."""
        return _split_list(self.fetch_hosts_text)

    @property
    def egress_rules(self) -> Literal["none", "all"] | tuple[str, ...]:
        """Hosts that sessions of the embedded pool may reach."""
        if self.egress == "none":
            return "none"
        return "all" if self.egress == "all" else _split_list(self.egress)

    @property
    def secret(self) -> bytes | None:
        """Secret that session identifiers are derived from, or None for one per process."""
        secret = self.session_secret or self.mcp_key
        return None if secret is None else secret.get_secret_value().encode()

    @property
    def gateway_key(self) -> str | None:
        """Key of the gateway at the MCP endpoint: the pool's, or that of `cci serve`.

        Raises:
            ConfigurationError: It would be sent to an endpoint of a file that nobody named.
        """
        if self.mcp_key is None:
            self._trust.check_secrets(self, "mcp_endpoint", ("serve_key",))
        secret = self.mcp_key or self.serve_key
        return None if secret is None else secret.get_secret_value()

    def check_sign_ins(self, *services: Service) -> None:
        """Refuse to sign in to an endpoint of a file that nobody named, if it is not Azure's.

        Call this before a token, or a key that a sign-in fetched, is sent to an endpoint.

        Args:
            services: The services that the endpoints belong to.

        Raises:
            ConfigurationError: One of them has such an endpoint.
        """
        self._trust.check_sign_ins(self, services)

    @property
    def file(self) -> EnvFile:
        """The file that was read besides the environment."""
        return self._trust.file

    @property
    def session_environment(self) -> dict[str, str]:
        """Variables for the code in sessions: each `CCI_SESSION_ENV_<NAME>` as `<NAME>`.

        Raises:
            ConfigurationError: A file that nobody named passes the environment's values on.
        """
        given = {**self._trust.file.values, **os.environ}
        names = {
            name
            for name in given
            if name.startswith(SESSION_ENV_PREFIX) and name != SESSION_ENV_PREFIX
        }
        self._trust.check_session_variables(names - set(os.environ))
        return {name.removeprefix(SESSION_ENV_PREFIX): given[name] for name in sorted(names)}

    def limits(self) -> Limits:
        """Return the limits that the environment sets."""
        return Limits(
            execution_timeout=timedelta(seconds=self.timeout),
            background_timeout=timedelta(seconds=self.background_timeout),
            output_characters=self.output_characters,
        )


@cache
def _note_ignored_url() -> None:
    """Log once that the variable is ignored."""
    logger.info(
        "MCP_SERVER_URL is ignored: it is not the URL of a session pool. If it is a gateway's, set "
        "AZURE_SESSION_POOL_MCP_ENDPOINT instead, and AZURE_SESSION_POOL_MCP_KEY"
    )


def get_variable_name(setting: str) -> str:
    """Return the name of a setting's environment variable."""
    return next(iter(list_variable_names(setting)), setting)


def list_variable_names(setting: str) -> list[str]:
    """Return all names of a setting's environment variable, the usual one first."""
    alias = Settings.model_fields[setting].validation_alias
    return [str(one) for one in alias.choices] if isinstance(alias, AliasChoices) else []


def name_env_file(path: str | os.PathLike[str]) -> None:
    """Make this process read its settings from a file that the user named."""
    os.environ[get_variable_name("env_file")] = os.fspath(path)


def read_session_environment() -> dict[str, str]:
    """Return the variables for the code in sessions, as `Settings.session_environment` does."""
    return Settings.read(check=False).session_environment


def read_authority_host() -> str | None:
    """Return the sign-in address that `AZURE_AUTHORITY_HOST` names, as azure-identity reads it.

    Only the environment counts. A file `.env` must not choose whose tokens are accepted.
    """
    return os.environ.get("AZURE_AUTHORITY_HOST") or None


def is_content_capture_enabled() -> bool:
    """Return whether spans contain code and output.

    The switch is that of OpenTelemetry's own instrumentations, and off by default
    (opentelemetry.io/docs/specs/semconv/gen-ai).
    """
    given = os.environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "")
    return given.lower() in {"true", "span_only", "span_and_event"}


def find_unknown_variables() -> dict[str, str | None]:
    """Return unknown variables that begin with `CCI_`, each with the most similar setting."""
    known = [name for setting in Settings.model_fields for name in list_variable_names(setting)]
    given = sorted({*os.environ, *Settings.read(check=False).file.values} - set(known))
    return {
        name: next(iter(get_close_matches(name, known, 1, 0.75)), None)
        for name in given
        if name.startswith("CCI_") and not name.startswith(SESSION_ENV_PREFIX)
    }


def _split_list(text: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)
