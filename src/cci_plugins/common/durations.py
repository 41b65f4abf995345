"""Durations in public arguments: a `timedelta`, or a number of seconds."""

from __future__ import annotations

import math
from datetime import timedelta
from numbers import Real

from cci_plugins.errors import ConfigurationError

Duration = timedelta | float
"""A `timedelta`, or a number of seconds."""

MAX_DURATION = timedelta(days=365)


def to_timedelta(value: object, name: str, *, allow_zero: bool = False) -> timedelta:
    """Return a duration as a `timedelta`.

    Args:
        value: What the application gave.
        name: The argument, for the error.
        allow_zero: Whether 0 is valid.

    Raises:
        ConfigurationError: It is not a duration, or not between 0 and `MAX_DURATION`.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, Real) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise ConfigurationError(
            f"{name} must be a timedelta or a number of seconds, not {type(value).__name__}",
            hint=f"pass {name}=30 or {name}=timedelta(seconds=30)",
        )
    longest = MAX_DURATION.total_seconds()
    if math.isnan(seconds) or seconds < 0 or seconds > longest or (seconds == 0 and not allow_zero):
        raise ConfigurationError(
            f"{name} must be {'at least' if allow_zero else 'more than'} 0 "
            f"and at most {longest:.0f} seconds, not {seconds:g}",
            hint=f"for no limit in practice pass {name}={longest:.0f} (365 days)",
        )
    return value if isinstance(value, timedelta) else timedelta(seconds=seconds)


def convert_durations(target: object, *names: str) -> None:
    """Convert attributes of a frozen dataclass by `to_timedelta`, in its `__post_init__`."""
    for name in names:
        value = to_timedelta(getattr(target, name), name, allow_zero=True)
        object.__setattr__(target, name, value)
