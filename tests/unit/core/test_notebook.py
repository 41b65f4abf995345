"""A session's history is a notebook that Jupyter accepts."""

from __future__ import annotations

from base64 import b64encode

import nbformat

from cci_plugins.core.notebook import MAX_BYTES, Notebook
from cci_plugins.models import ErrorInfo, Execution, Result


def test_every_kind_of_output_is_valid_nbformat() -> None:
    notebook = Notebook()
    notebook.add("x = 1", Execution())
    notebook.add(
        "show()",
        Execution(
            stdout="out",
            stderr="err",
            results=(
                Result({"image/png": b64encode(b"png").decode(), "text/plain": "<Figure>"}),
                Result({"text/plain": "42"}, is_main=True),
            ),
            error=ErrorInfo("ValueError", "why", "Traceback\nValueError: why"),
        ),
    )
    read = nbformat.reads(notebook.to_json(), as_version=4)
    nbformat.validate(read)
    assert [cell.source for cell in read.cells] == ["x = 1", "show()"]
    kinds = [output.output_type for output in read.cells[1].outputs]
    assert kinds == ["stream", "stream", "display_data", "execute_result", "error"]


def test_the_oldest_runs_are_dropped_beyond_the_bound() -> None:
    notebook = Notebook()
    image = Result({"image/png": "A" * (MAX_BYTES // 3)})
    for number in range(5):
        notebook.add(f"run {number}", Execution(results=(image,)))
    cells = nbformat.reads(notebook.to_json(), as_version=4).cells
    assert [cell.source for cell in cells] == ["run 3", "run 4"]
    assert cells[0].execution_count == 4
