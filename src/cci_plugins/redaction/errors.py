"""Redaction of exceptions."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from cci_plugins.errors import CodeInterpreterError

from .stream import redact
from .values import redact_value

# Attributes that built-in exceptions hold outside their __dict__ and show.
_BUILTIN_ATTRIBUTES = (
    "filename",
    "filename2",
    "strerror",
    "msg",
    "text",
    "reason",
    "name",
    "obj",
    "code",
)


def redact_exception(error: BaseException) -> BaseException:
    """Remove secrets from an exception's text, arguments, attributes, notes and chain.

    Args:
        error: The exception, which is changed in place.

    Returns:
        The same exception. If it still shows a secret, because its text comes from elsewhere, a
        `CodeInterpreterError` with its name, redacted text and traceback.
    """
    return _redact(error, {})


def _redact(error: BaseException, seen: dict[int, BaseException]) -> BaseException:
    if id(error) in seen:
        return seen[id(error)]
    seen[id(error)] = error
    for name in ("__cause__", "__context__"):
        if isinstance(other := getattr(error, name), BaseException):
            _set(error, name, _redact(other, seen), quiet=error.__suppress_context__)
    clean = _clean_group(error, seen) if isinstance(error, BaseExceptionGroup) else _clean(error)
    if not clean:
        seen[id(error)] = error = _build_replacement(error)
    return error


def _clean(error: BaseException) -> bool:
    _set(error, "args", redact_value(error.args))
    for name, value in [
        *vars(error).items(),
        *((name, _get(error, name)) for name in _BUILTIN_ATTRIBUTES),
    ]:
        if isinstance(value, str | bytes | list | tuple | dict):
            _set(error, name, redact_value(value))
    visible_text = (
        "".join(traceback.format_exception_only(error))
        + _format_error(error)
        + _format_error(error, repr)
    )
    return redact(visible_text) == visible_text


def _clean_group(error: BaseExceptionGroup[BaseException], seen: dict[int, BaseException]) -> bool:
    changed = [_redact(inner, seen) is not inner for inner in error.exceptions]
    return not any(changed) and _clean(error)


def _build_replacement(error: BaseException) -> BaseException:
    replacement = CodeInterpreterError(f"{type(error).__name__}: {redact(_format_error(error))}")
    for note in redact_value(list(_get(error, "__notes__") or ())):
        replacement.add_note(str(note))
    replacement.__cause__, replacement.__context__ = error.__cause__, error.__context__
    replacement.__suppress_context__ = error.__suppress_context__
    return replacement.with_traceback(error.__traceback__)


def _format_error(error: BaseException, formatter: Callable[[object], str] = str) -> str:
    try:
        return formatter(error)
    except Exception:  # noqa: BLE001 - a foreign __str__ or __repr__
        return ""


def _get(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name, None)
    except Exception:  # noqa: BLE001 - a foreign property
        return None


def _set(error: BaseException, name: str, value: Any, *, quiet: bool | None = None) -> None:
    try:
        if _get(error, name) is not value and _get(error, name) != value:
            setattr(error, name, value)
        if quiet is not None:
            error.__suppress_context__ = quiet  # setting a cause sets this too
    except Exception:  # noqa: BLE001, S110 - a value that cannot be changed is judged by what it shows
        pass
