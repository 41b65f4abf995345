"""The note for code that misses `/mnt/data`."""

from __future__ import annotations

import pytest

from cci_plugins.models import ErrorInfo, Execution
from cci_plugins.pools.base import Capabilities
from cci_plugins.pools.folder_notes import add_folder_note, describe_folder

MISSING = "[Errno 2] No such file or directory: '/mnt/data/a.csv'"


@pytest.mark.parametrize(
    ("execution", "folder", "has_note"),
    [
        (Execution(error=ErrorInfo("FileNotFoundError", MISSING)), "/tmp/data", True),
        (Execution(error=ErrorInfo("FileNotFoundError", MISSING)), "/mnt/data", False),
        (Execution(error=ErrorInfo("ValueError", MISSING)), "/tmp/data", False),
        (Execution(stderr=f"cat: {MISSING}"), "/tmp/data", True),
        (Execution(), "/tmp/data", False),
    ],
)
def test_code_that_misses_the_folder_gets_a_note(
    execution: Execution, folder: str, *, has_note: bool
) -> None:
    notes = add_folder_note(execution, folder).notes
    assert [note.startswith("/mnt/data does not exist") for note in notes] == [True] * has_note


def test_the_description_names_another_folder() -> None:
    assert describe_folder(Capabilities(name="a")) == ""
    assert "There is no /mnt/data here" in describe_folder(Capabilities(name="a", folder="."))
