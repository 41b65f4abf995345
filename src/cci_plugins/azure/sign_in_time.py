"""The time that a blocking sign-in has in its thread, for all its requests together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

_Result = TypeVar("_Result")
_END: ContextVar[float] = ContextVar("end_of_sign_in", default=math.inf)


def call_within(seconds: float, call: Callable[[], _Result]) -> _Result:
    """Call a function in this thread, and limit what `get_remaining_time` returns to it.

    Args:
        seconds: The limit.
        call: The function.
    """
    before = _END.set(time.monotonic() + seconds)
    try:
        return call()
    finally:
        _END.reset(before)


def get_remaining_time() -> float:
    """Return the seconds that the sign-in of this thread still has. Negative after its end."""
    return _END.get() - time.monotonic()
