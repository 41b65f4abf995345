"""What holds in a session whatever isolates it: output of child processes, and its folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from cci_plugins import CodeInterpreter, Session
from cci_plugins.pools.local.pool import LocalSessionPool
from cci_plugins.tools import execute_code
from cci_plugins.tools.options import ToolOptions

if sys.platform != "linux":
    pytest.skip("these backends exist on Linux only", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.quick("bwrap", "landlock")]

FORK = """
import os
print('before', end=' ')
if os.fork() == 0:
    print('forked é')
    print('as error', file=__import__('sys').stderr)
    os._exit(0)
os.wait()
print('after')
"""
MULTIPROCESSING = """
import multiprocessing
def work(number): print('worker', number)
process = multiprocessing.get_context('fork').Process(target=work, args=(7,))
process.start(); process.join()
process = multiprocessing.get_context('spawn').Process(target=print, args=('spawned',))
process.start(); process.join()
"""
IN_TURN = """
import subprocess
for number in range(3):
    subprocess.run(['echo', f'child {number}'])
    print('parent', number)
"""
WIDE = """
import subprocess, sys
done = subprocess.run([sys.executable, '-c', 'print("é" * 50_000)'])
"""


@pytest.fixture(scope="module", params=["bwrap", "landlock", "process"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
async def interpreter(anyio_backend: str, backend: Any) -> AsyncIterator[CodeInterpreter]:
    async with CodeInterpreter(LocalSessionPool(isolation=backend)) as opened:
        yield opened


async def read(session: Session, code: str) -> str:
    execution = await session.run_code(code)
    assert execution.error is None, execution.error
    return execution.stdout.replace("\r\n", "\n")


async def test_the_output_of_child_processes_arrives_in_order(interpreter: CodeInterpreter) -> None:
    session = interpreter.session("shared")
    with anyio.fail_after(100):
        execution = await session.run_code(FORK)
        assert execution.stdout == "before forked é\nafter\n"
        assert execution.stderr == "as error\n"
        assert await read(session, MULTIPROCESSING) == "worker 7\nspawned\n"
        turns = "".join(f"child {number}\nparent {number}\n" for number in range(3))
        assert await read(session, IN_TURN) == turns
        assert await read(session, WIDE) == "é" * 50_000 + "\n"
        assert await read(session, "import os; status = os.system('echo by system')") == (
            "by system\n"
        )
        assert await read(session, "!echo by magic; echo error >&2; exit 3") in {
            "by magic\nerror\n",  # by a pseudo-terminal
            "by magic\n",
        }
        assert (await session.run_code("_exit_code")).text == "3"
        assert await read(session, "lines = !echo listed\nprint(lines[0])") == "listed\n"
        assert await read(session, "%%bash\necho by bash") == "by bash\n"


async def test_the_folder_has_the_name_that_the_tool_gives_the_model(
    interpreter: CodeInterpreter,
) -> None:
    session = interpreter.session("folder")
    with anyio.fail_after(100):
        code = (
            "import os\n"
            "open('relative.txt', 'w').write('1')\n"
            "os.makedirs('sub', exist_ok=True); os.chdir('sub')\n"
            "open(os.path.join(os.environ['SESSION_FOLDER'], 'absolute.txt'), 'w').write('2')\n"
            "os.chdir(os.environ['SESSION_FOLDER'])"
        )
        await read(session, code)
        names = [file.name for file in await session.files.list()]
        assert names == ["absolute.txt", "relative.txt"]
        has_usual = (await session.run_code("os.path.isdir('/mnt/data')")).text == "True"
        description = execute_code.build_description(ToolOptions(), interpreter)
        assert ("There is no /mnt/data here" in description) is not has_usual
        assert ("SESSION_FOLDER" in description) is not has_usual
        execution = await session.run_code("open('/mnt/data/new.txt', 'w').close()")
        assert (execution.error is None) is has_usual
        assert any("relative paths" in note for note in execution.notes) is not has_usual


async def test_a_backend_without_mounts_is_described_before_it_starts() -> None:
    pool = LocalSessionPool(isolation="landlock")
    description = execute_code.build_description(ToolOptions(), CodeInterpreter(pool))
    assert "There is no /mnt/data here" in description
    named = execute_code.build_description(ToolOptions(), CodeInterpreter(LocalSessionPool()))
    assert "/mnt/data" not in named


WAITS = """
import sys
waits, sender = [], sys.stdout.pub_thread
schedule = sender.schedule
sender.schedule = lambda work: (waits.append(work), schedule(work))
for stream in (sys.stdout, sys.stderr): stream.flush()
idle = len(waits)
print('text', end='')
sys.stdout.flush()
sender.schedule = schedule
print(f' {idle} {len(waits) > 0}')
"""


async def test_a_flush_waits_only_where_something_was_written(interpreter: CodeInterpreter) -> None:
    session = interpreter.session("shared")

    assert await read(session, WAITS) == "text 0 True\n"


MIXED = """
import os, sys, threading
from IPython.display import display
print('first')
os.system('echo second')
worker = threading.Thread(target=print, args=('third',)); worker.start(); worker.join()
display('shown')
print('fourth', end='', flush=True)
os.write(1, b' raw\\n')
print('last', file=sys.stderr)
"""


async def test_output_of_every_kind_is_whole_in_its_own_run_and_in_order(
    interpreter: CodeInterpreter,
) -> None:
    session = interpreter.session("shared")
    for number in range(20):
        execution = await session.run_code(f"{MIXED}\n{number}")

        assert execution.stdout == "first\nsecond\nthird\nfourth raw\n"
        assert execution.stderr == "last\n"
        assert [result.text for result in execution.results] == ["'shown'", str(number)]
