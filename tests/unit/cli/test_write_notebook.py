"""An executed notebook keeps what a person wrote."""

from __future__ import annotations

from typing import Any

import nbformat

from cci_plugins.cli.write_notebook import insert_outputs
from cci_plugins.core.notebook import Notebook
from cci_plugins.models import Execution


def make(*cells: Any) -> Any:
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return notebook


def test_outputs_are_put_in_place_and_old_ones_leave() -> None:
    old = nbformat.v4.new_output("stream", text="old")
    notebook = make(
        nbformat.v4.new_markdown_cell("# Title"),
        nbformat.v4.new_code_cell("print(1)", outputs=[old], execution_count=9),
        nbformat.v4.new_code_cell("print(2)", outputs=[old], execution_count=10),
    )
    history = Notebook()
    history.add("print(1)", Execution(stdout="1\n"))
    text = insert_outputs(notebook, history.to_json(), [1])
    result = nbformat.reads(text, as_version=4)
    nbformat.validate(result)
    assert [cell.cell_type for cell in result.cells] == ["markdown", "code", "code"]
    assert result.cells[0].source == "# Title"
    assert result.cells[1].outputs[0].text == "1\n"
    assert result.cells[2].outputs == []
    assert notebook.cells[1].outputs[0].text == "old", "the notebook that was read is not changed"


def test_a_history_that_forgot_its_oldest_runs_still_fits() -> None:
    notebook = make(*(nbformat.v4.new_code_cell(f"print({n})") for n in range(3)))
    history = Notebook()
    for number in (1, 2):
        history.add(f"print({number})", Execution(stdout=f"{number}\n"))
    result = nbformat.reads(insert_outputs(notebook, history.to_json(), [0, 1, 2]), as_version=4)
    assert [[output.text for output in cell.outputs] for cell in result.cells] == [
        [],
        ["1\n"],
        ["2\n"],
    ]
