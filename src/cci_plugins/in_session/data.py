"""Values as JSON has them, for tables and charts; sent as source, standard library only."""

from __future__ import annotations

import json
import math
from itertools import islice
from typing import Any

BYTES = 256 << 10  # of one table or chart
RUN = 16 * BYTES  # of all in one run: the rest of a run's bounds is for what the code shows
MISSING = ("MaskedConstant", "NAType", "NaTType")  # of numpy and pandas
CHARACTERS, ITEMS = 10_000, 1_000  # of one value
SMALLEST, LARGEST = -(2**63), 2**64 - 1  # integers of numpy
CUT = "\N{HORIZONTAL ELLIPSIS}"


def plain(value: Any) -> Any:
    """A value as JSON has it; text for what it has not."""
    value = own(value)
    if isinstance(value, dict):
        return {text(str(key)): plain(item) for key, item in islice(value.items(), ITEMS)}
    if isinstance(value, (list, tuple)):
        kept = [plain(item) for item in islice(value, ITEMS)]
        return kept if len(value) <= ITEMS else [*kept, CUT]
    return scalar(value)


def own(value: Any) -> Any:
    """Python's own value for one of numpy or pandas; as many items of an array as are kept."""
    if type(value).__name__ in MISSING:
        return None
    if not hasattr(type(value), "dtype"):
        return value
    if value.shape:
        return list(value[: ITEMS + 1])
    kind = getattr(value.dtype, "kind", "")
    if kind == "M":  # `item` would make numbers of nanoseconds
        date, point, part = str(value).partition(".")
        return None if date == "NaT" else (date + point + part.rstrip("0")).rstrip(".")
    return (value.astype("timedelta64[us]") if kind == "m" else value).item()


def scalar(value: Any) -> Any:
    """A single value as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):  # readers of JSON would round larger ones
        return value if SMALLEST <= value <= LARGEST else str(value)
    if isinstance(value, str):
        return text(value if len(value) <= CHARACTERS else value[:CHARACTERS] + CUT)
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
    return text((str(value) if tell is None else str(tell()))[:CHARACTERS])


def text(given: str) -> str:
    """Text that JSON can carry: a lone surrogate would lose all of a display."""
    return given if given.isascii() else given.encode("utf-8", "backslashreplace").decode()


class Room:
    """What one run may still tell as data, however often it displays."""

    def __init__(self) -> None:
        self.left = RUN

    def renew(self) -> None:
        """Have all of it again."""
        self.left = RUN


def add_form(shell: Any, form: str, room: Room, **more: Any) -> Any:
    """A formatter by which a kernel displays objects as JSON in one more form.

    Objects of other types than those it is told of are not asked. Nothing switches it off: pandas
    has an option that disables whatever has the form of its tables.

    Args:
        shell: IPython's.
        form: Its MIME type.
        room: What a run may tell.
        more: Further attributes of the formatter.
    """

    def told(formatter: Any, value: Any) -> Any:
        try:
            found = formatter.lookup(value)(value) if room.left else None
        except Exception:  # noqa: BLE001 - it knows nothing of this type
            return None
        if found is not None:
            room.left = max(room.left - len(json.dumps(found)), 0)
        return found

    formatters = shell.display_formatter.formatters
    base = type(formatters["application/json"])
    fields = {"format_type": form, "__call__": told, **more}
    formatters[form] = made = type("DataFormatter", (base,), fields)()
    return made
