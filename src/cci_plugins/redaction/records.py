"""Redaction of log records."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from .stream import redact
from .values import redact_value

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class RedactingFilter(logging.Filter):
    """A logging filter that passes every record on without its secrets.

    A filter of a logger sees the records of that logger, not those of its children or of other
    libraries. To redact everything that an application logs, add it to the handlers.

    A record without a secret is not changed. Others may lose the arguments of their message, and
    have their traceback as text only.

    Example:
        ```python
        import logging

        from cci_plugins.redaction import RedactingFilter

        for handler in logging.getLogger().handlers:
            handler.addFilter(RedactingFilter())
        ```
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact message, arguments, traceback, stack and extra attributes. Return True."""
        _redact_message(record)
        _redact_traceback(record)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        for name, value in list(vars(record).items()):
            if name not in _STANDARD:
                setattr(record, name, _redact_argument(value))
        return True


def install(target: logging.Filterer) -> None:
    """Add a `RedactingFilter` to a logger or a handler, unless it has one."""
    if not any(isinstance(other, RedactingFilter) for other in target.filters):
        target.addFilter(RedactingFilter())


def _redact_message(record: logging.LogRecord) -> None:
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - the handler reports a wrong format, with these values
        record.msg, record.args = redact(str(record.msg)), _redact_arguments(record.args)
        return
    if (clean := redact(message)) != message:
        record.msg, record.args = clean, ()
        return
    if not isinstance(record.msg, str):
        record.msg = message
    record.args = _redact_arguments(record.args)


def _redact_arguments(given: Any) -> Any:
    if isinstance(given, dict):
        return {redact_value(name): _redact_argument(value) for name, value in given.items()}
    return tuple(_redact_argument(value) for value in given or ())


def _redact_argument(value: Any) -> Any:
    """Return the value itself unless its text has a secret."""
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, str):
        return redact(value)
    try:
        text, representation = str(value), repr(value)
    except Exception:  # noqa: BLE001 - a foreign __str__
        return value
    if redact(representation) == representation and redact(text) == text:
        return value
    clean = redact_value(value)
    return clean if redact(repr(clean)) == repr(clean) and clean is not value else redact(text)


def _redact_traceback(record: logging.LogRecord) -> None:
    if record.exc_info and record.exc_info[0] is not None:
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        if (clean := redact(text)) != text:
            record.exc_text, record.exc_info = clean, None
    if record.exc_text:
        record.exc_text = redact(record.exc_text)
