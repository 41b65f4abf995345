"""Objects that can be made a second time, as in a forked child of a process that used them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self, TypeVar


@dataclass(frozen=True, slots=True)
class _Arguments:
    """Arguments of a constructor. They may be secrets, so they are not in the repr."""

    args: tuple[Any, ...] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)


class Renewable:
    """Keeps the arguments that an object was made of.

    Connections, locks and child processes of an object belong to one process. A forked child
    calls `renew` for an object of its own.
    """

    _arguments: _Arguments

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Create the object, and keep the arguments for `renew`."""
        self = super().__new__(cls)
        self._arguments = _Arguments(args, kwargs)
        return self


RenewableT = TypeVar("RenewableT", bound=Renewable)


def renew(used: RenewableT) -> RenewableT:
    """Return a new object of the same class and arguments."""
    kept = used._arguments  # noqa: SLF001 - the class and this function belong together
    return type(used)(*kept.args, **kept.kwargs)
