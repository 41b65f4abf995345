"""One setting: the variables that it is read from, and the check of their text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, get_args

from cci_plugins.errors import ConfigurationError

from .environment import Secret
from .number_errors import build_number_error


@dataclass(frozen=True, slots=True)
class VariableNames:
    """Names of the variables of one setting.

    Attributes:
        choices: The names, the usual one first.
    """

    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """Definition of a setting.

    Attributes:
        default: Its value where no variable is set.
        validation_alias: Its variables.
        description: What it does, for the documentation.
        kind: Its type: `str`, `Secret`, a number or a `Literal`.
        bounds: Of a number: the smallest, the largest and the unit.
    """

    default: Any
    validation_alias: VariableNames
    description: str = field(repr=False)
    kind: Any = str
    bounds: tuple[float, int, str] | None = None

    def find(self, variables: dict[str, Any]) -> Any:
        """Return the setting's value.

        Args:
            variables: The variables that are set.

        Raises:
            ConfigurationError: The text is not valid.
        """
        for name in self.validation_alias.choices:
            if name in variables:
                return self._convert(name, variables[name])
        return float(self.default) if self.kind is float and self.default else self.default

    def _convert(self, name: str, text: str) -> Any:
        if self.kind is str or text in get_args(self.kind):
            return text
        return Secret(text) if self.kind is Secret else self._validate(name, text)

    def _validate(self, name: str, text: str) -> Any:
        from pydantic import Field, TypeAdapter, ValidationError  # noqa: PLC0415 - seldom needed

        kind = self.kind
        if self.bounds is not None:
            lowest, highest, _ = self.bounds
            kind = Annotated[kind, Field(ge=lowest, le=highest, allow_inf_nan=False)]
        try:
            return TypeAdapter(kind).validate_python(text)
        except ValidationError as error:
            if self.bounds is not None:
                raise build_number_error(name, text, *self.bounds) from None
            message = error.errors(include_url=False)[0]["msg"]
            raise ConfigurationError(
                f"{name}: {message}", hint=f"correct or unset {name}"
            ) from None
