"""JSON values of tables and charts. Sent as source, standard library only."""

from __future__ import annotations

import json
import math
from itertools import islice
from typing import Any

MAX_DATA_BYTES = 256 << 10  # of one table or chart
MAX_RUN_DATA_BYTES = 16 * MAX_DATA_BYTES  # of one run: the rest is left for what the code displays
MISSING_TYPES = ("MaskedConstant", "NAType", "NaTType")  # of numpy and pandas
MAX_CHARACTERS, MAX_ITEMS = 10_000, 1_000  # of one value
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1  # the range of numpy's integers
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def to_json_value(value: Any) -> Any:
    """Convert a value to one that JSON supports. Unsupported values become text."""
    value = to_python_value(value)
    if isinstance(value, dict):
        return {
            escape_surrogates(str(key)): to_json_value(item)
            for key, item in islice(value.items(), MAX_ITEMS)
        }
    if isinstance(value, (list, tuple)):
        kept = [to_json_value(item) for item in islice(value, MAX_ITEMS)]
        return kept if len(value) <= MAX_ITEMS else [*kept, ELLIPSIS]
    return to_json_scalar(value)


def to_python_value(value: Any) -> Any:
    """Convert a value of numpy or pandas to Python's own. Keep `MAX_ITEMS + 1` array items."""
    if type(value).__name__ in MISSING_TYPES:
        return None
    if not hasattr(type(value), "dtype"):
        return value
    if value.shape:
        return list(value[: MAX_ITEMS + 1])
    kind = getattr(value.dtype, "kind", "")
    if kind == "M":  # `item` would return nanoseconds as a number
        date, point, fraction = str(value).partition(".")
        return None if date == "NaT" else (date + point + fraction.rstrip("0")).rstrip(".")
    return (value.astype("timedelta64[us]") if kind == "m" else value).item()


def to_json_scalar(value: Any) -> Any:
    """Convert a single value to one that JSON supports."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):  # JSON readers would round larger ones
        return value if MIN_INTEGER <= value <= MAX_INTEGER else str(value)
    if isinstance(value, str):
        return escape_surrogates(
            value if len(value) <= MAX_CHARACTERS else value[:MAX_CHARACTERS] + ELLIPSIS
        )
    return None if value is None else format_value(value)


def format_value(value: Any) -> str:
    """Format dates, times and durations by ISO 8601, and other values by `str`."""
    if isinstance(value, (bytes, bytearray)):
        value = value[:MAX_CHARACTERS]
    if hasattr(value, "total_seconds"):
        seconds = value.total_seconds()
        sign = "-" if seconds < 0 else ""
        return sign + "PT" + f"{abs(seconds):.6f}".rstrip("0").rstrip(".") + "S"
    isoformat = getattr(value, "isoformat", None)
    return escape_surrogates(
        (str(value) if isoformat is None else str(isoformat()))[:MAX_CHARACTERS]
    )


def escape_surrogates(value: str) -> str:
    """Escape lone surrogates. JSON cannot encode them, so the whole display would be lost."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def escape_values(value: Any) -> Any:
    """Return a JSON value with all lone surrogates escaped."""
    if isinstance(value, str):
        return escape_surrogates(value)
    if isinstance(value, dict):
        return {escape_values(name): escape_values(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [escape_values(item) for item in value]
    return value


class DisplayBudget:
    """The bytes of table and chart data that one run may still send."""

    def __init__(self) -> None:
        self.remaining_bytes = MAX_RUN_DATA_BYTES

    def reset(self) -> None:
        """Restore the full budget for a new run."""
        self.remaining_bytes = MAX_RUN_DATA_BYTES


def add_formatter(shell: Any, mime_type: str, budget: DisplayBudget, **attributes: Any) -> Any:
    """Add a formatter by which a kernel displays objects as JSON of one more MIME type.

    The caller registers types with the returned formatter. Objects of other types are not
    touched. The formatter has no `enabled` check, because a pandas option disables every
    formatter of the MIME type of its tables.

    Args:
        shell: IPython's shell.
        mime_type: The MIME type.
        budget: The bytes that a run may still send.
        attributes: Further attributes of the formatter.
    """

    def format_within_budget(formatter: Any, value: Any) -> Any:
        try:
            data = formatter.lookup(value)(value) if budget.remaining_bytes else None
        except Exception:  # noqa: BLE001 - the type is not registered
            return None
        if data is not None:
            budget.remaining_bytes = max(budget.remaining_bytes - len(json.dumps(data)), 0)
        return data

    formatters = shell.display_formatter.formatters
    base = type(formatters["application/json"])
    fields = {"format_type": mime_type, "__call__": format_within_budget, **attributes}
    formatters[mime_type] = formatter = type("DataFormatter", (base,), fields)()
    return formatter
