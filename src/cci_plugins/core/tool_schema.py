"""The JSON schema of a tool's arguments, and the check of a call against it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from cci_plugins.errors import ConfigurationError

_MAX_ERRORS = 3
_MAX_ERROR_CHARACTERS = 300
_CACHED_SCHEMAS = 1024


def check_schema(tool: str, schema: object) -> None:
    """Check the schema of a tool's arguments.

    Args:
        tool: Name of the tool.
        schema: What the application passed.

    Raises:
        ConfigurationError: It is not a JSON schema of an object.
    """
    hint = 'pass a JSON schema such as {"type": "object", "properties": {...}}'
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        kind = schema.get("type") if isinstance(schema, Mapping) else type(schema).__name__
        raise ConfigurationError(
            f"the schema of the tool {tool!r} is not that of an object ({kind!r})", hint=hint
        )
    if not isinstance(schema.get("properties", {}), Mapping):
        raise ConfigurationError(f"the properties of the tool {tool!r} are invalid", hint=hint)
    try:
        _get_validator(schema)
    except Exception as error:
        message = str(getattr(error, "message", error)).partition("\n")[0]
        raise ConfigurationError(
            f"the schema of the tool {tool!r} is invalid: {message[:_MAX_ERROR_CHARACTERS]}",
            hint=hint,
        ) from error


def find_errors(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    """List what is wrong with the arguments of a call, at most three sentences.

    Args:
        schema: The schema of the tool's arguments.
        arguments: Decoded JSON, which the code of a session sent.
    """
    names = list(schema.get("properties", {}))
    errors: list[str] = []
    if not accepts_more(schema):
        unknown = [name for name in arguments if name not in names]
        errors += [f"{name[:100]!r} is not a parameter" for name in unknown[:_MAX_ERRORS]]
        if unknown:
            errors.append(f"the parameters are {', '.join(names) or 'empty'}")
            return errors
    for error in _iter_errors(schema, arguments):
        errors.append(error)
        if len(errors) == _MAX_ERRORS:
            break
    return errors


def accepts_more(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema allows arguments that it does not name.

    JSON Schema allows them by default. A function does not, so here the schema has to ask for it.
    """
    more = schema.get("additionalProperties", False)
    return bool(more) or more == {} or bool(schema.get("patternProperties"))


def _iter_errors(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> Iterator[str]:
    try:
        for error in _get_validator(schema).iter_errors(arguments):
            path = "".join(f"[{part!r}]" for part in error.absolute_path)
            text = error.message[:_MAX_ERROR_CHARACTERS]
            yield f"arguments{path}: {text}" if path else text
    except RecursionError:
        yield "the arguments are nested too deeply"


def _get_validator(schema: Mapping[str, Any]) -> Any:
    return _build_validator(json.dumps(schema, sort_keys=True))


@lru_cache(maxsize=_CACHED_SCHEMAS)
def _build_validator(text: str) -> Any:
    """Build the validator of a schema. It never fetches a schema of another address."""
    from jsonschema import validators  # noqa: PLC0415 - it is loaded with the first tool
    from referencing import Registry  # noqa: PLC0415

    schema = json.loads(text)
    base = validators.validator_for(schema, default=validators.Draft202012Validator)
    base.check_schema(schema)
    bounded = validators.extend(base, {"uniqueItems": _find_repeated})
    return bounded(schema, registry=Registry())


def _find_repeated(_: Any, is_unique: object, items: object, __: Any) -> Iterator[Any]:
    """Check `uniqueItems` in linear time. For hostile data the library's own check is quadratic."""
    from jsonschema.exceptions import ValidationError  # noqa: PLC0415

    if is_unique is not True or not isinstance(items, list):
        return
    seen: set[str] = set()
    for item in items:
        key = json.dumps(int(item) if _is_whole(item) else item, sort_keys=True)
        if key in seen:
            yield ValidationError("the items are not unique")
            return
        seen.add(key)


def _is_whole(item: object) -> bool:
    return isinstance(item, float) and item.is_integer()
