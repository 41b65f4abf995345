"""Blocking versions of the functions, for code without `await`.

They run on the package's own event loop. `run` also awaits `approve` there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import ParamSpec, TypeVar

from cci_plugins.common import event_loop

from . import agents, connections

__all__ = ["connect", "create_agent", "delete_agent", "disconnect", "run"]

P = ParamSpec("P")
T = TypeVar("T")


def _make_blocking(function: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return event_loop.run_blocking(partial(function, *args, **kwargs))

    return call


connect = _make_blocking(connections.connect)
disconnect = _make_blocking(connections.disconnect)
create_agent = _make_blocking(agents.create_agent)
delete_agent = _make_blocking(agents.delete_agent)
run = _make_blocking(agents.run)
