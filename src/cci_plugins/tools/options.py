"""Options of the tool, the same for every adapter."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from cci_plugins.common.durations import Duration, to_timedelta
from cci_plugins.core.tool_signatures import DESCRIPTION_CHARACTERS
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.base import Capabilities, check_background_support
from cci_plugins.pools.folder_notes import describe_folder
from cci_plugins.pools.network_notes import NO_NETWORK, NO_PIP

_MIN_OUTPUT_CHARACTERS = 200  # enough for an error message
_MAX_LISTED_PACKAGES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOptions:
    """Options for the tool's description and the size of its output.

    Attributes:
        packages: Packages to name in the tool's description, such as the names in
            `await interpreter.packages()`. None names the preinstalled packages that the pool
            reports, as the embedded pool does.
        instructions: More text for the model.
        output_characters: Most characters of one result. None means
            `Limits.output_characters`.
        tools_characters: Most characters about host tools in the tool's description.
        wait: Longest time until the tool answers, in seconds or as a `timedelta`. Code that takes
            longer goes on, and the tool `check_run` returns its result. The pool must run code in
            the background. None waits for the end of each run, and offers one tool only.
        install_packages: Offer the model the tool `install_packages`. The application's `approve`
            is asked before each of its calls.

    Raises:
        ConfigurationError: `output_characters` is too small, `packages` is a string, or `wait` is
            not a duration.

    Example:
        ```python
        from cci_plugins import ToolOptions
        from cci_plugins.langchain import CodeInterpreterTool

        tool = CodeInterpreterTool(options=ToolOptions(packages=["numpy"], output_characters=4000))
        assert tool.description.endswith("Installed: numpy.")
        ```
    """

    packages: Collection[str] | None = None
    instructions: str = ""
    output_characters: int | None = None
    tools_characters: int = DESCRIPTION_CHARACTERS
    wait: Duration | None = None
    install_packages: bool = False

    def __post_init__(self) -> None:
        if self.wait is not None:
            object.__setattr__(self, "wait", to_timedelta(self.wait, "wait"))
        if isinstance(self.packages, str):  # else each letter would be a package
            raise ConfigurationError(
                f"packages is a string ({self.packages!r})", hint="pass a list of names"
            )
        if self.output_characters is not None and self.output_characters < _MIN_OUTPUT_CHARACTERS:
            raise ConfigurationError(
                f"output_characters must be at least {_MIN_OUTPUT_CHARACTERS}, "
                f"not {self.output_characters}",
                hint=f"pass {_MIN_OUTPUT_CHARACTERS} or more, or None",
            )


def get_wait(options: ToolOptions) -> timedelta | None:
    """Return the longest time until the tool answers, or None where it waits for each run."""
    return None if options.wait is None else to_timedelta(options.wait, "wait")


def check_wait_support(wait: timedelta | None, capabilities: Capabilities) -> None:
    """Refuse `wait` on a pool that ends every run with its request.

    Raises:
        ConfigurationError: The pool cannot run code in the background.
    """
    if wait is None:
        return
    try:
        check_background_support(capabilities)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"wait ({wait.total_seconds():g} s) needs runs in the background: {error}",
            hint="leave wait out, or use the embedded pool",
        ) from None


def check_single_tool(options: ToolOptions) -> None:
    """Refuse options that need a second tool, so that no result is out of reach.

    Raises:
        ConfigurationError: The options have `wait` or `install_packages`.
    """
    if options.wait is not None:
        raise ConfigurationError(
            "wait needs a second tool, check_run", hint="call code_interpreter_tools(...) instead"
        )
    if options.install_packages:
        raise ConfigurationError(
            "install_packages is a second tool", hint="call code_interpreter_tools(...) instead"
        )


def build_description(
    base: str,
    options: ToolOptions,
    known: Collection[str],
    *,
    capabilities: Capabilities | None = None,
) -> str:
    """Build a tool's description.

    Args:
        base: What the tool does.
        options: Packages and instructions to add.
        known: Preinstalled packages, named if the options name none.
        capabilities: Abilities of the pool, if they are known.
    """
    names = list(known if options.packages is None else options.packages)
    more = (
        f" and {len(names) - _MAX_LISTED_PACKAGES} more"
        if len(names) > _MAX_LISTED_PACKAGES
        else ""
    )
    packages = f"Installed: {', '.join(names[:_MAX_LISTED_PACKAGES])}{more}." if names else ""
    network = ""
    if capabilities is not None and capabilities.egress is False:
        network = NO_PIP if options.install_packages else NO_NETWORK
    folder = "" if capabilities is None else describe_folder(capabilities)
    instructions = options.instructions.strip()
    return " ".join(part for part in (base, folder, packages, network, instructions) if part)
