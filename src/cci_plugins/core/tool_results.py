"""Results of host tools as JSON, within their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from cci_plugins.errors import ToolCallError

_MAX_REASON = 300


def measure(value: Any, limit: int) -> int:
    """Return a lower bound of a value's size as JSON. It stops counting above the limit.

    Args:
        value: The value. Objects count as nothing, since only their encoding shows their size.
        limit: Where to stop.
    """
    size = 0
    pending = [value]
    while pending and size <= limit:
        item = pending.pop()
        size += 1
        if isinstance(item, str | bytes | bytearray):
            size += len(item)
        elif isinstance(item, Mapping):
            size += 2 * len(item)
            pending += [*item.keys(), *item.values()] if size <= limit else []
        elif isinstance(item, list | tuple | set | frozenset):
            size += len(item)
            pending += item if size <= limit else ()
    return size


def encode_result(value: Any, limit: int) -> str:
    """Return a result as JSON text.

    Args:
        value: JSON data, or what pydantic can convert to it. NaN becomes null.
        limit: Most bytes.

    Raises:
        ToolCallError: It is too large, or it cannot be converted.
    """
    size = measure(value, limit)
    if size <= limit:
        try:
            data = to_json(value, inf_nan_mode="null")
        except Exception as error:  # noqa: BLE001 - a value may raise anything
            text = str(error).partition("\n")[0][:_MAX_REASON]
            raise ToolCallError(f"the tool's result is not JSON data: {text}") from None
        if len(data) <= limit:
            return data.decode()
        size = len(data)
    raise ToolCallError(
        f"the tool's result has {size:,} bytes or more, and a call may have {limit:,}",
        kind="limit",
    )
