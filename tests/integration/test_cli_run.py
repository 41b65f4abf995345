"""Tests of `cci run` on the embedded pool. Streams, signals and exits have a process."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import nbformat

from ._command import Command

LIMIT = 60
CHART = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"


def environment() -> dict[str, str]:
    """Return this process's environment without settings of a pool."""
    skipped = ("AZURE_", "CCI_", "MCP_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(skipped)}
    isolation = os.environ.get("CCI_ISOLATION")
    return kept | ({"CCI_ISOLATION": isolation} if isolation else {}) | {"NO_COLOR": "1"}


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cci_plugins", *arguments],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], LIMIT)[0], "no output in time"
    return process.stdout.readline()


def messages(stderr: str) -> list[str]:
    """Return the lines on stderr except the pool's notes about this machine's isolation."""
    return [line for line in stderr.splitlines() if "isolation" not in line]


def test_code_prints_and_shows_its_value(tmp_path: Path) -> None:
    with start("run", "print(6*7)\n'value'", cwd=tmp_path) as process:
        stdout, stderr = process.communicate(timeout=LIMIT)
    assert (process.returncode, stdout) == (0, "42\n'value'\n")
    assert messages(stderr) == []


def test_standard_input_is_run(command: Command) -> None:
    done = command("run", "-", stdin="import sys\nprint('seen', file=sys.stderr)\n6 * 7\n")
    assert (done.returncode, done.stdout) == (0, "42\n")
    assert messages(done.stderr) == ["seen"]


def test_a_script_is_run_as_the_main_program(command: Command, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("if __name__ == '__main__':\n    print('main')\n")
    assert command("run", "a.py").stdout == "main\n"


def test_a_script_has_arguments_a_name_and_an_exit_status(command: Command, tmp_path: Path) -> None:
    script = (
        "import sys\nprint(sys.argv)\ndef f():\n    raise ValueError\nif '4' in sys.argv: f()\n"
    )
    (tmp_path / "main.py").write_text(f"{script}sys.exit(7)\n")
    failed = command("run", "main.py", "--", "--n", "4")
    assert (failed.returncode, failed.stdout) == (1, "['main.py', '--n', '4']\n")
    assert "File main.py:4, in f()" in failed.stderr
    ended = command("run", "main.py", "--json")
    assert ended.returncode == 7
    assert json.loads(ended.stdout)["exit_status"] == 7
    assert command("run", "import sys; sys.exit('no rows')").returncode == 1
    stopped = command("run", "exit()\nprint('went on')")
    assert (stopped.returncode, stopped.stdout) == (0, "")


def test_a_failure_shows_the_traceback_and_exits_with_1(command: Command) -> None:
    done = command("run", "print('before')\n1/0")
    assert (done.returncode, done.stdout) == (1, "before\n")
    assert "ZeroDivisionError: division by zero" in done.stderr


def test_a_process_that_dies_exits_with_1(command: Command) -> None:
    done = command("run", "import os\nos._exit(3)")
    assert done.returncode == 1
    assert "error: " in done.stderr


def test_a_time_out_exits_with_124(command: Command) -> None:
    done = command("run", "--timeout", "1", "import time\ntime.sleep(50)")
    assert done.returncode == 124


def test_a_chart_is_saved_and_named(command: Command, tmp_path: Path) -> None:
    done = command("run", CHART, "--output", "charts")
    assert (done.returncode, done.stdout) == (0, "")
    assert messages(done.stderr) == ["saved charts/image-1.png"]
    assert (tmp_path / "charts" / "image-1.png").read_bytes().startswith(b"\x89PNG")


def test_json_contains_the_whole_execution(command: Command) -> None:
    done = command("run", "--json", "print('out')\n6 * 7")
    facts = json.loads(done.stdout)
    assert (facts["text"], facts["stdout"], facts["status"]) == ("42", "out\n", "succeeded")
    assert facts["isolation"]


def test_files_go_in_and_come_out(command: Command, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    code = "open('out.txt', 'w').write(open('in.csv').read().upper());"
    done = command("run", code, "--upload", "in.csv", "--download", "*.txt", "--output", "new")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "out.txt").read_text() == "A,B\n1,2\n"
    assert not (tmp_path / "new" / "in.csv").exists()


def test_a_notebook_runs_in_one_session_up_to_the_first_failure(
    command: Command, tmp_path: Path
) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Title"),
            nbformat.v4.new_code_cell("x = 41"),
            nbformat.v4.new_code_cell("x + 1"),
            nbformat.v4.new_code_cell("1/0", metadata={"tags": ["raises-exception"]}),
            nbformat.v4.new_code_cell("print('still here')\nint('x')"),
            nbformat.v4.new_code_cell("print('never')"),
        ]
    )
    nbformat.write(notebook, tmp_path / "a.ipynb")
    done = command("run", "a.ipynb", "--save-notebook", "done.ipynb")
    assert (done.returncode, done.stdout) == (1, "42\nstill here\n")
    assert "cell 5 failed" in done.stderr
    result = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    nbformat.validate(result)
    assert [cell.source for cell in result.cells] == [cell.source for cell in notebook.cells]
    assert result.cells[2].outputs[0].data["text/plain"] == "42"
    assert result.cells[4].outputs[-1].ename == "ValueError"
    assert result.cells[5].outputs == []


def test_code_is_saved_as_a_notebook(command: Command, tmp_path: Path) -> None:
    assert command("run", "6 * 7", "--save-notebook", "new/a.ipynb").returncode == 0
    result = nbformat.read(tmp_path / "new" / "a.ipynb", as_version=4)
    nbformat.validate(result)
    assert result.cells[0].source == "6 * 7"


def test_output_streams_while_the_code_runs_and_ctrl_c_exits_with_130(tmp_path: Path) -> None:
    code = "print('begun', flush=True)\nimport time\ntime.sleep(500)"
    with start("run", code, cwd=tmp_path) as process:
        assert read_line(process) == "begun\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "error: interrupted" in stderr
    assert "Traceback" not in stderr


def test_a_reader_that_closes_the_output_ends_the_command_quietly(tmp_path: Path) -> None:
    code = "for n in range(10**6): print(n)"
    with start("run", code, cwd=tmp_path) as process:
        assert read_line(process) == "0\n"
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=LIMIT) == 141
        assert messages(process.stderr.read()) == []


def test_the_version_is_data(command: Command) -> None:
    done = command("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("cci-plugins ")


def test_without_typer_the_command_prints_what_to_install(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['typer'] = None; from cci_plugins.cli import main; main([])"
    done = subprocess.run(
        [sys.executable, "-c", hidden],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr == (
        'error: the command line needs typer\n\nhint: pip install "cci-plugins[cli]"\n'
    )
