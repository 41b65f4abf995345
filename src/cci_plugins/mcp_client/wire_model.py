"""Pydantic models of received JSON, whose failures are `ProtocolError`.

Only what comes in is validated. What goes out is written by `json.dumps`, because pydantic's
encoder refuses lone surrogates and turns NaN into null.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    InstanceOf,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic.alias_generators import to_camel

from cci_plugins.errors import ProtocolError


def _parse_time(value: object) -> datetime | None:
    try:
        return None if value is None else datetime.fromisoformat(value)  # type: ignore[arg-type]  # caught
    except (TypeError, ValueError):
        raise ValueError("it is not a time in ISO 8601") from None  # without the value


Text = InstanceOf[str]  # pydantic's own `str` refuses the lone surrogates that code may print
Timestamp = Annotated[datetime | None, BeforeValidator(_parse_time)]


class WireModel(BaseModel):
    """Strict, frozen model of a JSON object, whose keys are in camel case.

    A key without a default is required. Unknown keys are ignored.
    """

    model_config = ConfigDict(
        strict=True, frozen=True, alias_generator=to_camel, hide_input_in_errors=True
    )

    @classmethod
    def load(cls, value: object, what: str, *, hint: str | None = None) -> Self:
        """Validate decoded JSON.

        Args:
            value: The decoded JSON.
            what: Name of the value for the error message, such as `execution`.
            hint: Next step for the error message.

        Raises:
            ProtocolError: The value does not fit. The message names the first wrong key, but
                never repeats the value, which may be long and may hold a secret.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            key = ".".join(map(str, first["loc"]))
            reason = f"{key}: {first['msg']}" if key else "it is not an object"
        raise ProtocolError(f"the pool returned an invalid {what} ({reason})", hint=hint)


class TolerantModel(WireModel):
    """Wire model for servers that keep to no schema: a wrong optional value counts as missing."""

    @field_validator("*", mode="wrap")
    @classmethod
    def _use_default(
        cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        field = cls.model_fields[info.field_name or ""]
        try:
            return validate(value)
        except ValidationError:
            if field.is_required():
                raise
            return field.get_default()
