"""Scripts, threads, many loops, Jupyter: calls work, and nothing warns about what was left open."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

HEAD = """
    import asyncio, threading
    from cci_plugins import CodeInterpreter, LocalSessionPool, sync
    pool = LocalSessionPool(preload=())
"""
PROGRAMS = {
    "script without closing": """
        print(sync.CodeInterpreter(pool).run_code("6 * 7").text)
    """,
    "several asyncio.run": """
        interpreter = CodeInterpreter(pool)
        async def set_x(): await interpreter.run_code("x = 42")
        async def get_x(): return (await interpreter.run_code("x")).text
        asyncio.run(set_x())
        print(asyncio.run(get_x()))
    """,
    "threads": """
        interpreter = sync.CodeInterpreter(pool)
        interpreter.run_code("x = 0")
        def add(): interpreter.run_code("x += 7")
        threads = [threading.Thread(target=add) for _ in range(6)]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
        print(interpreter.run_code("x").text)
        interpreter.close()
    """,
    "blocking inside a running loop": """
        async def main():
            with sync.CodeInterpreter(pool) as interpreter:
                print(interpreter.run_code("6 * 7").text)
        asyncio.run(main())
    """,
    "a tool, awaited and not": """
        from cci_plugins.langchain import CodeInterpreterTool
        tool = CodeInterpreterTool(interpreter=CodeInterpreter(pool))
        tool.invoke({"code": "x = 41"})
        print(asyncio.run(tool.ainvoke({"code": "x + 1"})))
    """,
}


@pytest.mark.quick("script without closing", "threads")
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_prints_42_and_nothing_else(name: str) -> None:
    program = textwrap.dedent(HEAD) + textwrap.dedent(PROGRAMS[name])
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", program],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.stdout == "42\n", done.stderr
    complaints = [line for line in done.stderr.splitlines() if "took" not in line]
    assert [line for line in complaints if "cci_plugins" in line or "unclosed" in line] == []
    assert done.returncode == 0


def test_it_works_in_jupyter(tmp_path: Path) -> None:
    cells = [
        "from cci_plugins import CodeInterpreter, sync",
        "interpreter = CodeInterpreter.local()",
        "(await interpreter.run_code('x = 41')).error",
        "print((await interpreter.run_code('x + 1')).text)",
        "with sync.CodeInterpreter.local() as other: print(other.run_code('6 * 7').text)",
        "await interpreter.aclose()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": tmp_path}}).execute()
    streams = [
        (output.name, output.text)
        for cell in notebook.cells
        for output in cell.outputs
        if output.output_type == "stream"
    ]
    assert streams == [("stdout", "42\n"), ("stdout", "42\n")]
