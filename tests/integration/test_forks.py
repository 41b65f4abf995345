"""A forked child has an event loop, a pool and sessions of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
]

PROGRAM = """
    import io, multiprocessing, os, sys
    from cci_plugins import CodeInterpreter, LocalSessionPool, sync

    def work(interpreter):
        session = interpreter.session("alice")
        execution = session.run_code("'x' in dir(), open('in.txt').read()")
        print(execution.text, execution.state, any("forked" in note for note in execution.notes))
        print(session.run_code("import time; time.sleep(60)", timeout=0.5).status)
        with sync.CodeInterpreter(LocalSessionPool(ready_sessions=0, preload=())) as other:
            print(other.run_code("6 * 7").text, flush=True)

    if __name__ == "__main__":
        pool = LocalSessionPool(ready_sessions=0, preload=())
        interpreter = sync.CodeInterpreter(pool)
        session = interpreter.session("alice")
        session.files.upload(io.BytesIO(b"hello"), name="in.txt")
        session.run_code("x = 41")
        if sys.argv[1] == "os.fork":
            pid = os.fork()
            if pid == 0:
                work(interpreter)
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        else:
            child = multiprocessing.get_context("fork").Process(target=work, args=(interpreter,))
            child.start()
            child.join(60)
            assert child.exitcode == 0
        print(session.run_code("x + 1").text, session.run_code("open('in.txt').read()").text)
        interpreter.close()
"""


@pytest.mark.quick("os.fork")
@pytest.mark.parametrize("way", ["os.fork", "multiprocessing"])
def test_a_forked_child_runs_code_and_leaves_the_session_of_its_parent_alone(
    way: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    done = subprocess.run(
        [sys.executable, "program.py", way],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    child = "(False, 'hello') lost True\ntimed_out\n42\n"
    assert done.stdout == child + "42 'hello'\n", done.stderr
    assert list(tmp_path.glob("cci-*")) == []
