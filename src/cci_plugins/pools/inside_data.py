"""Values as JSON has them, for tables and charts; sent as source, standard library only."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

BYTES = 256 << 10  # of one table or chart
CHARACTERS, ITEMS = 10_000, 1_000  # of one value
SMALLEST, LARGEST = -(2**63), 2**64 - 1  # integers of numpy
CUT = "\N{HORIZONTAL ELLIPSIS}"


def plain(value: Any) -> Any:
    """A value as JSON has it; text for what it has not."""
    if type(value).__name__ == "MaskedConstant":  # of numpy: no value is there
        return None
    if hasattr(value, "tolist"):
        value = value.tolist()  # of numpy
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in islice(value.items(), ITEMS)}
    if isinstance(value, (list, tuple)):
        kept = [plain(item) for item in islice(value, ITEMS)]
        return kept if len(value) <= ITEMS else [*kept, CUT]
    return scalar(value)


def scalar(value: Any) -> Any:
    """A single value as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):  # readers of JSON would round larger ones
        return value if SMALLEST <= value <= LARGEST else str(value)
    if isinstance(value, str):
        return value if len(value) <= CHARACTERS else value[:CHARACTERS] + CUT
    return None if value is None else text_of(value)


def text_of(value: Any) -> str:
    """Dates, times and durations by ISO 8601; the rest as Python shows it."""
    if isinstance(value, (bytes, bytearray)):
        value = value[:CHARACTERS]
    if hasattr(value, "total_seconds"):
        seconds = value.total_seconds()
        sign = "-" if seconds < 0 else ""
        return sign + "PT" + f"{abs(seconds):.6f}".rstrip("0").rstrip(".") + "S"
    tell = getattr(value, "isoformat", None)
    return (str(value) if tell is None else str(tell()))[:CHARACTERS]


def add_form(shell: Any, form: str, method: str, **more: Any) -> Any:
    """A formatter by which a kernel displays objects as JSON in one more form.

    Args:
        shell: IPython's.
        form: Its MIME type.
        method: What objects that show themselves in that form have.
        more: Further attributes of the formatter.
    """
    formatters = shell.display_formatter.formatters
    base = type(formatters["application/json"])
    fields = {"format_type": form, "print_method": method, **more}
    formatters[form] = made = type("DataFormatter", (base,), fields)()
    return made
