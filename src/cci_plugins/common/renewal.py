"""Objects that can be made a second time, as in a forked child of a process that used them."""

from __future__ import annotations

from typing import Any, Self, TypeVar


class Renewable:
    """Keeps the arguments that an object was made of.

    Connections, locks and child processes of an object belong to one process. A forked child
    calls `renew` for an object of its own.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Create the object, and keep the arguments for `renew`."""
        self = super().__new__(cls)
        self._arguments = args, kwargs
        return self


RenewableT = TypeVar("RenewableT", bound=Renewable)


def renew(used: RenewableT) -> RenewableT:
    """Return a new object of the same class and arguments."""
    args, kwargs = used._arguments  # noqa: SLF001 - the class and this function belong together
    return type(used)(*args, **kwargs)
