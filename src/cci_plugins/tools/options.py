"""What a host may say of the tool, the same at every door."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.base import Capabilities
from cci_plugins.pools.network_notes import NO_NETWORK

_MIN_OUTPUT_CHARACTERS = 200  # characters in which an error can still be told
_MAX_LISTED_PACKAGES = 40  # packages


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOptions:
    """How the tool is told to the model, and how much it may answer.

    Attributes:
        packages: Packages to name in the tool's description, such as what
            `await interpreter.packages()` gives; None names those of the data analyst's that the
            pool knows it has, as the embedded pool does.
        instructions: Further words for the model.
        output_characters: Characters of one result that the model may read; `Limits` says it
            when None.

    Raises:
        ConfigurationError: The budget is too small to say anything, or `packages` is a string.
    """

    packages: Collection[str] | None = None
    instructions: str = ""
    output_characters: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.packages, str):  # its letters would be told
            raise ConfigurationError("packages is a string", hint="give a list of names")
        if self.output_characters is not None and self.output_characters < _MIN_OUTPUT_CHARACTERS:
            raise ConfigurationError(
                f"output_characters must be at least {_MIN_OUTPUT_CHARACTERS}",
                hint=f"give {_MIN_OUTPUT_CHARACTERS} or more, or None",
            )


def build_description(
    base: str,
    options: ToolOptions,
    known: Collection[str],
    *,
    capabilities: Capabilities | None = None,
) -> str:
    """A tool's description with what the host says.

    Args:
        base: What the tool does.
        options: What the host says.
        known: Packages that the pool knows it has.
        capabilities: Abilities of the pool, if they are known.
    """
    names = list(known if options.packages is None else options.packages)
    more = (
        f" and {len(names) - _MAX_LISTED_PACKAGES} more"
        if len(names) > _MAX_LISTED_PACKAGES
        else ""
    )
    packages = f"Installed: {', '.join(names[:_MAX_LISTED_PACKAGES])}{more}." if names else ""
    network = NO_NETWORK if capabilities is not None and capabilities.egress is False else ""
    return " ".join(
        part for part in (base, packages, network, options.instructions.strip()) if part
    )
