"""Values as JSON has them, for tables and charts; sent as source, standard library only."""

from __future__ import annotations

import json
import math
from itertools import islice
from typing import Any

MAX_DATA_BYTES = 256 << 10  # of one table or chart
MAX_RUN_DATA_BYTES = (
    16 * MAX_DATA_BYTES
)  # of all in one run: the rest of a run's bounds is for what the code shows
MISSING_TYPES = ("MaskedConstant", "NAType", "NaTType")  # of numpy and pandas
MAX_CHARACTERS, MAX_ITEMS = 10_000, 1_000  # of one value
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1  # integers of numpy
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def to_json_value(value: Any) -> Any:
    """A value as JSON has it; text for what it has not."""
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
    """Python's own value for one of numpy or pandas; as many items of an array as are kept."""
    if type(value).__name__ in MISSING_TYPES:
        return None
    if not hasattr(type(value), "dtype"):
        return value
    if value.shape:
        return list(value[: MAX_ITEMS + 1])
    kind = getattr(value.dtype, "kind", "")
    if kind == "M":  # `item` would make numbers of nanoseconds
        date, point, part = str(value).partition(".")
        return None if date == "NaT" else (date + point + part.rstrip("0")).rstrip(".")
    return (value.astype("timedelta64[us]") if kind == "m" else value).item()


def to_json_scalar(value: Any) -> Any:
    """A single value as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):  # readers of JSON would round larger ones
        return value if MIN_INTEGER <= value <= MAX_INTEGER else str(value)
    if isinstance(value, str):
        return escape_surrogates(
            value if len(value) <= MAX_CHARACTERS else value[:MAX_CHARACTERS] + ELLIPSIS
        )
    return None if value is None else format_value(value)


def format_value(value: Any) -> str:
    """Dates, times and durations by ISO 8601; the rest as Python shows it."""
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
    """Text that JSON can carry: a lone surrogate would lose all of a display."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


class DisplayBudget:
    """What one run may still tell as data, however often it displays."""

    def __init__(self) -> None:
        self.remaining_bytes = MAX_RUN_DATA_BYTES

    def reset(self) -> None:
        """Have all of it again."""
        self.remaining_bytes = MAX_RUN_DATA_BYTES


def add_formatter(shell: Any, mime_type: str, budget: DisplayBudget, **attributes: Any) -> Any:
    """A formatter by which a kernel displays objects as JSON in one more form.

    Objects of other types than those it is told of are not asked. Nothing switches it off: pandas
    has an option that disables whatever has the form of its tables.

    Args:
        shell: IPython's.
        form: Its MIME type.
        room: What a run may tell.
        more: Further attributes of the formatter.
    """

    def format_within_budget(formatter: Any, value: Any) -> Any:
        try:
            found = formatter.lookup(value)(value) if budget.remaining_bytes else None
        except Exception:  # noqa: BLE001 - it knows nothing of this type
            return None
        if found is not None:
            budget.remaining_bytes = max(budget.remaining_bytes - len(json.dumps(found)), 0)
        return found

    formatters = shell.display_formatter.formatters
    base = type(formatters["application/json"])
    fields = {"format_type": mime_type, "__call__": format_within_budget, **attributes}
    formatters[mime_type] = made = type("DataFormatter", (base,), fields)()
    return made
