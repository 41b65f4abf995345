"""Rules for requests that MCP, REST and the emulated pools share: identifiers and JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, InstanceOf, ValidationError
from pydantic.alias_generators import to_camel

MIN_IDENTIFIER_LENGTH, MAX_IDENTIFIER_LENGTH = 4, 128
_MAX_SHOWN_CHARACTERS = 60

Text = InstanceOf[str]
"""A string as JSON has it. pydantic's own `str` refuses lone surrogates, which code may contain."""


class RequestModel(BaseModel):
    """Base of what clients send as JSON: strict types, keys in camel case, other keys ignored."""

    model_config = ConfigDict(strict=True, frozen=True, alias_generator=to_camel)


def describe_invalid(error: ValidationError) -> str:
    """Return the first problem of a JSON value as one sentence that names its key."""
    problem = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{name} is missing."
    if not name:  # a rule about several keys, whose message names them
        return problem["msg"].removeprefix("Value error, ")
    shown = repr(problem["input"])
    shown = shown if len(shown) <= _MAX_SHOWN_CHARACTERS else shown[:_MAX_SHOWN_CHARACTERS] + "..."
    return f"{name} is invalid ({shown}): {problem['msg']}."


def check_identifier(identifier: object) -> str | None:
    """Return what is wrong with a session identifier in one sentence, or None.

    The rule is the data plane's: 4 to 128 characters of printable ASCII without spaces.
    """
    if (
        not isinstance(identifier, str)
        or not MIN_IDENTIFIER_LENGTH <= len(identifier) <= MAX_IDENTIFIER_LENGTH
    ):
        return (
            f"A session identifier has {MIN_IDENTIFIER_LENGTH} to {MAX_IDENTIFIER_LENGTH} "
            "characters."
        )
    if not identifier.isascii() or not identifier.isprintable() or " " in identifier:
        return "A session identifier has printable ASCII characters only, without spaces."
    return None
