"""Replay of cells that the host names, so that their variables come back.

Nothing is replayed by itself, and nothing is unpickled. A cell is refused, by name and before
anything runs, if running its text again would not do the same: redaction changed it, it was
dropped from the notebook, it failed, or it called a host tool. No host tool can be called during
a replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cci_plugins.errors import CheckpointError, ConfigurationError
from cci_plugins.pools.base import SessionPool
from cci_plugins.redaction import redact

from .notebook import calls_host_tools, get_count, is_redacted, load_cells

CellName = int | str
_PREFIX = "run-"


@dataclass(frozen=True, slots=True)
class ReplayCell:
    """A cell to run again.

    Attributes:
        name: Its id in the notebook, such as `run-3`.
        code: Its text.
    """

    name: str
    code: str


def choose_cells(notebook: str, names: Sequence[CellName]) -> list[ReplayCell]:
    """Return the named cells in the order of the history.

    Args:
        notebook: The text of the saved notebook.
        names: Numbers of runs, or ids such as `run-3`.

    Raises:
        ConfigurationError: A name is invalid, or a cell cannot be replayed.
    """
    if isinstance(names, str):
        raise ConfigurationError(f"replay is {names!r:.40}, not a list", hint="pass [1, 3]")
    numbers = [_parse_name(name) for name in names]
    cells = {get_count(cell): cell for cell in load_cells(notebook)}
    faults = [
        f"{_PREFIX}{number} {fault}"
        for number in sorted({*numbers})
        if (fault := _find_fault(cells, number, numbers.count(number)))
    ]
    if faults:
        raise ConfigurationError(
            f"cannot replay: {'; '.join(faults)}",
            hint="leave these cells out, and run their work as new code after the restore",
        )
    return [ReplayCell(f"{_PREFIX}{one}", cells[one]["source"]) for one in sorted(numbers)]


async def replay_cells(
    pool: SessionPool, session_id: str, cells: Sequence[ReplayCell], limit: timedelta
) -> str | None:
    """Run cells in a new session, each once.

    Args:
        pool: The pool.
        session_id: The session.
        cells: The cells, in order.
        limit: Longest run of one cell.

    Returns:
        The session's instance, or None if the pool does not report it.

    Raises:
        CheckpointError: A cell failed. The caller ends the session.
    """
    instance: str | None = None
    for cell in cells:
        execution = await pool.execute(session_id, cell.code, timeout=limit, instance=instance)
        if execution.error is not None:
            reason = redact(f"{execution.error.name}: {execution.error.message}")[:500]
            raise CheckpointError(
                f"{cell.name} failed in the replay: {reason}",
                hint="leave it out; nothing was restored",
            )
        instance = execution.instance or None
    return instance


def _parse_name(name: CellName) -> int:
    text = name.removeprefix(_PREFIX) if isinstance(name, str) else name
    if isinstance(text, str) and text.isascii() and text.isdigit():
        return int(text[:9])
    if type(text) is int and text > 0:
        return text
    raise ConfigurationError(
        f"{name!r:.40} does not name a cell", hint="pass the number of a run, or 'run-3'"
    )


def _find_fault(cells: Mapping[int, Mapping[str, Any]], number: int, count: int) -> str | None:
    """Return why a cell cannot be replayed, or None."""
    cell = cells.get(number)
    if cell is None:
        is_older = any(number < other for other in cells)
        return "was dropped from the notebook" if is_older else "is not in the history"
    if count > 1:
        return "is named twice"
    if any(_is_error(output) for output in cell["outputs"]):
        return "failed"
    if is_redacted(cell):
        return "has a text that redaction changed"
    return "called a host tool" if calls_host_tools(cell) else None


def _is_error(output: object) -> bool:
    return not isinstance(output, Mapping) or output.get("output_type") == "error"
