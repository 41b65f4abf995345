"""`cci notebook` with the folder of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cci_plugins.cli import app
from cci_plugins.models import Execution
from cci_plugins.sync import CodeInterpreter
from cci_plugins.testing import FakeSessionPool


def test_the_history_of_a_checkpoint_becomes_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with CodeInterpreter(FakeSessionPool(Execution(stdout="42\n"))) as interpreter:
        session = interpreter.session("mine")
        session.run_code("print(6 * 7)")
        session.files.upload(b"1" * 100, name="data.csv")
        saved = Path((session.save(to="checkpoints")).location)

    def call(*arguments: str) -> tuple[int, str]:
        return app.start(arguments), capsys.readouterr().err

    assert call("notebook", str(saved)) == (0, f"saved {saved.name}.ipynb\n")
    cells = json.loads(Path(f"{saved.name}.ipynb").read_text())["cells"]
    assert [cell["source"] for cell in cells] == ["print(6 * 7)"]
    code, message = call("notebook", str(saved))
    assert (code, "add --overwrite" in message) == (2, True)
    assert call("notebook", str(saved), "--overwrite", "--output", "a/b.ipynb")[0] == 0

    history = next(path for path in saved.iterdir() if path.suffix == ".ipynb")
    history.chmod(0o600)
    history.write_text(history.read_text().replace("6 * 7", "7 * 7"))
    code, message = call("notebook", str(saved), "--overwrite")
    assert (code, "is damaged" in message) == (2, True), message
    code, message = call("notebook", str(tmp_path))
    assert code != 0
    assert "checkpoint" in message
