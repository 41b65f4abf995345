"""Names of the runs that a server has started, so that none of them starts twice.

A client gives each run a random name, and sends a run again under the same name after an answer
that it did not start. A proxy may have changed that answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from cci_plugins.errors import CodeInterpreterError, PoolError
from cci_plugins.mcp_client.failures import MAY_HAVE_RUN

MAX_NAMES = 10_000
_MAX_LENGTH = 100


class StartedRuns:
    """The latest names of runs that were started."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, None] = OrderedDict()

    @contextmanager
    def starting(self, name: str | None) -> Iterator[None]:
        """Start a run inside this block. Its name is free again if the run did not start.

        Args:
            name: The name, or None for a run that its client never sends again.

        Raises:
            PoolError: A run of this name was started before.
        """
        if name is None or len(name) > _MAX_LENGTH:
            yield
            return
        if name in self._names:
            raise PoolError(f"a run of this name has begun before; {MAY_HAVE_RUN}")
        self._names[name] = None
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        try:
            yield
        except CodeInterpreterError as error:
            if error.retryable:
                self._names.pop(name, None)
            raise
