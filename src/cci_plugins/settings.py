"""Settings read from the environment; the one place where a variable's name is spelt."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import ConfigurationError
from .limits import Limits

IsolationName = Literal["auto", "bwrap", "landlock", "seatbelt", "process"]


def _setting(default: Any, *names: str, doc: str) -> Any:
    return Field(default=default, validation_alias=AliasChoices(*names), description=doc)


_optional = partial(_setting, None)


class Settings(BaseSettings):
    """What `CodeInterpreter.from_env` needs to know; also read from a `.env` file."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)

    pool: Literal["local", "platform"] | None = _optional(
        "CCI_POOL",
        doc="Where code runs; by default `platform` when an endpoint is set, else `local`",
    )
    mcp_endpoint: str | None = _optional(
        "AZURE_SESSION_POOL_MCP_ENDPOINT", "MCP_SERVER_URL", doc="MCP endpoint of a session pool"
    )
    mcp_key: SecretStr | None = _optional(
        "AZURE_SESSION_POOL_MCP_KEY", doc="Key of that endpoint, sent as x-ms-apikey"
    )
    isolation: IsolationName = _setting(
        "auto",
        "CCI_ISOLATION",
        doc="Fence of the embedded pool: auto, bwrap, landlock, seatbelt, process",
    )
    python: str | None = _optional(
        "CCI_PYTHON",
        doc="Interpreter of the embedded pool's sessions, with ipykernel and the packages they may "
        "import; by default the one that runs the pool",
    )
    timeout: float = _setting(220, "CCI_TIMEOUT", doc="Longest run, in seconds")
    output_characters: int = _setting(
        8_000, "CCI_OUTPUT_CHARACTERS", doc="Characters of one execution that a model may read"
    )
    sessions: int = _setting(32, "CCI_SESSIONS", doc="Most sessions of the embedded pool at once")
    ready_sessions: int = _setting(
        1, "CCI_READY_SESSIONS", doc="Kernels the embedded pool keeps warm"
    )
    cooldown: float = _setting(
        1800,
        "CCI_COOLDOWN",
        doc="Seconds without a call after which the embedded pool ends a session",
    )
    session_secret: SecretStr | None = _optional(
        "CCI_SESSION_SECRET",
        doc="Makes session identifiers the same in every process; by default the pool's key",
    )
    serve_key: SecretStr | None = _optional(
        "CCI_SERVE_KEY", doc="Key that `cci serve` asks its clients for; by default a new one"
    )

    @classmethod
    def read(cls) -> Self:
        """Read the environment.

        Raises:
            ConfigurationError: A value is not valid, or a pool is only half configured.
        """
        try:
            settings = cls()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            raise ConfigurationError(
                f"{name}: {first['msg']}", hint=f"correct or unset {name}"
            ) from None
        settings.check()
        return settings

    def check(self) -> None:
        """Refuse half a configuration instead of falling back to the embedded pool."""
        missing = None
        if self.mcp_key is not None and self.mcp_endpoint is None:
            missing = "AZURE_SESSION_POOL_MCP_ENDPOINT"
        elif self.mcp_endpoint is not None and self.mcp_key is None and self.pool != "local":
            missing = "AZURE_SESSION_POOL_MCP_KEY"
        elif self.pool == "platform" and self.mcp_endpoint is None:
            missing = "AZURE_SESSION_POOL_MCP_ENDPOINT"
        if missing is not None:
            raise ConfigurationError(
                f"{missing} is not set, but the rest of a session pool's settings is",
                hint=f"set {missing}, or unset the others to use the embedded pool",
            )

    @property
    def chosen_pool(self) -> Literal["local", "platform"]:
        """The pool these settings ask for."""
        return self.pool or ("platform" if self.mcp_endpoint else "local")

    @property
    def secret(self) -> bytes | None:
        """What session identifiers are derived with; None for a new secret in each process."""
        secret = self.session_secret or self.mcp_key
        return None if secret is None else secret.get_secret_value().encode()

    def limits(self) -> Limits:
        """The limits, as the environment moved them."""
        return Limits(
            execution_timeout=timedelta(seconds=self.timeout),
            output_characters=self.output_characters,
        )
