"""A notebook as it was, with the outputs of this run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode


def insert_outputs(notebook: NotebookNode, history: str, positions: Sequence[int | None]) -> str:
    """Put outputs into a copy of a notebook; its text and other cells stay.

    Args:
        notebook: What was run.
        history: The session's history as a notebook, one cell a run.
        positions: Which cell of the notebook each run was.

    Returns:
        The notebook file's text.
    """
    import nbformat

    result = copy.deepcopy(notebook)
    for cell in result.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    executed = nbformat.reads(history, as_version=4)  # type: ignore[no-untyped-call]
    # A history forgets its oldest runs, so the two are matched from their ends.
    for position, run in zip(reversed(positions), reversed(executed.cells), strict=False):
        if position is not None:
            cell = result.cells[position]
            cell.outputs, cell.execution_count = run.outputs, run.execution_count
    return str(nbformat.writes(result))  # type: ignore[no-untyped-call]
