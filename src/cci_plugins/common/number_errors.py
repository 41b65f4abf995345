"""The error for a setting that is not a number within its bounds."""

from __future__ import annotations

from cci_plugins.errors import ConfigurationError


def build_number_error(
    name: str, value: object, lowest: float, highest: int, unit: str
) -> ConfigurationError:
    """Build the error for a number. It shows no value that is not one, which may be a secret."""
    try:
        shown = f"{float(str(value)):g}"
    except ValueError:
        shown = "the value"
    return ConfigurationError(
        f"{name}: {shown} is not a number of {unit} from {lowest:g} to {highest}",
        hint=f"correct or unset {name}; for no limit in practice set {name}={highest}",
    )
