"""Arguments and signatures of host tools in a session, and the exceptions of their calls.

Sent as source, standard library only.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import keyword
import os
from typing import Any

TEXT_TYPES = ("Decimal", "Fraction", "UUID")


class ToolError(Exception):
    """A host tool failed, or could not be called."""


class ToolArgumentError(ToolError, TypeError):
    """A call of a tool that does not exist, or with wrong arguments."""


class ToolDeniedError(ToolError, PermissionError):
    """A call that the user or a policy did not allow."""


class ToolLimitError(ToolError):
    """A call beyond a limit of the run."""


class ToolTimeoutError(ToolError, TimeoutError):
    """A tool that took too long."""


ERRORS: dict[str, type[ToolError]] = {
    "failed": ToolError,
    "invalid": ToolArgumentError,
    "denied": ToolDeniedError,
    "limit": ToolLimitError,
    "timeout": ToolTimeoutError,
}


def bind_arguments(
    spec: dict[str, Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> dict[str, Any]:
    """Return all arguments by name.

    Args:
        spec: The tool.
        arguments: Positional arguments, in the order of the signature.
        options: Arguments by name.

    Raises:
        ToolArgumentError: They do not fit the signature.
    """
    name, parameters = spec["name"], spec["parameters"]
    names = [parameter["name"] for parameter in parameters]
    shown = f"the parameters are {', '.join(names)}" if names else "it has no parameters"
    if len(arguments) > len(names):
        raise ToolArgumentError(f"{name}() got {len(arguments)} arguments; {shown}")
    bound = dict(zip(names, arguments, strict=False))
    for key in options:
        if key in bound:
            raise ToolArgumentError(f"{name}() got two values for {key!r}")
        if key not in names and not spec["accepts_more"]:
            raise ToolArgumentError(f"{name}() has no parameter {key!r}; {shown}")
    bound.update(options)
    missing = [one["name"] for one in parameters if one["default"] is None]
    missing = [key for key in missing if key not in bound]
    if missing:
        raise ToolArgumentError(f"{name}() needs {', '.join(map(repr, missing))}; {shown}")
    return bound


def encode_arguments(name: str, arguments: dict[str, Any]) -> bytes:
    """Return arguments as JSON. Values of numpy and pandas become Python's own.

    Raises:
        ToolArgumentError: They are not JSON data.
    """
    try:
        text = json.dumps(arguments, default=to_plain_value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolArgumentError(f"the arguments of {name}() are not JSON data: {error}") from None
    return text.encode()


def to_plain_value(value: Any) -> Any:
    """Return an object as data of JSON: arrays, tables, dates, sets and the like."""
    if hasattr(type(value), "iloc") and hasattr(value, "columns"):  # a DataFrame of pandas
        return value.to_dict("records")
    for convert in ("to_dicts", "tolist", "to_list", "item", "isoformat", "model_dump"):
        method = getattr(value, convert, None)
        if callable(method) and not isinstance(value, type):
            return method()
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, os.PathLike) or type(value).__name__ in TEXT_TYPES:
        return str(value)
    raise TypeError(f"{type(value).__name__} {str(value)[:50]!r} is not JSON data")


class Annotation:
    """A type in a signature, which `help` shows as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def build_signature(spec: dict[str, Any]) -> inspect.Signature:
    """Build the signature of a tool. What Python cannot name is part of its `**more`."""
    kinds = inspect.Parameter
    parameters = [
        kinds(
            parameter["name"],
            kinds.POSITIONAL_OR_KEYWORD,
            default=kinds.empty
            if parameter["default"] is None
            else Annotation(parameter["default"]),
            annotation=Annotation(parameter["annotation"]),
        )
        for parameter in spec["parameters"]
        if parameter["name"].isidentifier() and not keyword.iskeyword(parameter["name"])
    ]
    if spec["accepts_more"] or len(parameters) < len(spec["parameters"]):
        parameters.append(kinds("more", kinds.VAR_KEYWORD))
    returns = Annotation(spec["returns"])
    return inspect.Signature(parameters, return_annotation=returns)
