"""Host tools that code in a session calls, with real kernels on both backends, and hostile code."""

from __future__ import annotations

import asyncio
import contextvars
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from cci_plugins import (
    BackgroundRun,
    CodeInterpreter,
    Decision,
    Execution,
    HostTool,
    Limits,
    ToolCallRequest,
)
from cci_plugins.errors import ConfigurationError, ToolCallError
from cci_plugins.pools.local.pool import LocalSessionPool
from cci_plugins.sync import CodeInterpreter as BlockingInterpreter

if sys.platform != "linux":
    pytest.skip("these backends exist on Linux only", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ANY = {"type": "object", "properties": {"a": {}, "b": {}}}
NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "number", "default": 0}},
    "required": ["a"],
}
LIMITS = Limits(
    tool_calls=300, tool_call_bytes=1 << 20, tool_total_bytes=8 << 20, tool_call_timeout=3
)
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")

# How hostile code reaches the socket below `tools`.
FORGE = """
import builtins, json, threading, time
client = vars(builtins.tools)['_Tools__client']
def send(header, payload=b'{}'):
    frame = json.dumps(header).encode() + b'\\n' + payload
    client._socket.sendall(len(frame).to_bytes(4, 'big') + frame)
run = client.run.id
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["bwrap", "landlock"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
async def interpreter(backend: str) -> AsyncIterator[CodeInterpreter]:
    pool = LocalSessionPool(isolation=backend, ready_sessions=0, preload=())  # type: ignore[arg-type]
    async with CodeInterpreter(pool, limits=LIMITS) as interpreter:
        yield interpreter


class Host:
    """The tools of the tests, and what happened to them."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.cancelled = 0
        self.started = 0
        self.seen: list[Any] = []

    async def add(self, a: float, b: float = 0) -> float:
        assert asyncio.get_running_loop() is self.loop
        return a + b

    def context(self, a: object = None) -> dict[str, Any]:
        return {"id": request_id.get(), "main": threading.current_thread().name == "MainThread"}

    async def wait(self, a: float, b: float = 0) -> float:
        self.started += 1
        try:
            await asyncio.sleep(a)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return a

    def echo(self, a: object = None, b: object = None) -> object:
        self.seen.append(a)
        return a

    def fail(self, a: object = None) -> None:
        raise LookupError(f"no row {a!r} at /srv/host/secret.py?sig=" + "A1" * 22)

    def refuse(self) -> None:
        raise ToolCallError("closed at night", kind="denied")

    def big(self) -> str:
        return "x" * 100_000_000

    async def refund(self, a: float) -> str:
        self.seen.append(("refund", a))
        return "done"

    def tools(self) -> list[HostTool]:
        schemas = {"add": NUMBERS, "wait": NUMBERS}
        names = ("add", "context", "wait", "echo", "fail", "refuse", "big")
        tools = [
            HostTool(name, f"The tool {name}.", schemas.get(name, ANY), getattr(self, name))
            for name in names
        ]
        rule = HostTool(
            "refund",
            "Pay back.",
            NUMBERS,
            self.refund,
            needs_approval=lambda arguments: arguments["a"] > 10,
        )
        return [*tools, rule]


async def approve(request: ToolCallRequest) -> Decision:
    return (
        Decision("deny", reason="too much") if request.arguments["a"] > 100 else Decision("allow")
    )


async def run(interpreter: CodeInterpreter, host: Host, code: str, **options: Any) -> Execution:
    with anyio.fail_after(60):
        return await interpreter.session("one").run_code(
            code, tools=host.tools(), approve_tool=approve, **options
        )


CALLS = """
import asyncio, contextlib, decimal, datetime
from concurrent.futures import ThreadPoolExecutor
assert tools.add(1, 2) == tools.call('add', 1, b=2) == tools.add(a=3) == 3
assert await tools.acall('add', 2, b=2) == 4
more = await asyncio.gather(*(tools.acall('add', n) for n in range(20)))
assert more == list(range(20)), more
with ThreadPoolExecutor(12) as threads:
    assert sorted(threads.map(tools.add, range(20))) == list(range(20))
assert asyncio.run(tools.acall('add', 7)) == 7
values = {'s': {1, 2}, 'd': decimal.Decimal('1.5'), 't': datetime.date(2026, 1, 2), 'é': None}
assert tools.echo(values) == {'s': [1, 2], 'd': '1.5', 't': '2026-01-02', 'é': None}
assert 'add' in dir(tools) and 'tools.add(a: float, b: float = 0)' in repr(tools)
help(tools.add)
tools.context()
"""
ERRORS = """
def attempt(call, *arguments, **options):
    try:
        return call(*arguments, **options)
    except tools.ToolError as error:
        return f'{type(error).__name__}: {error}'
print(attempt(tools.fail, 'x'))
print(attempt(tools.refuse))
print(attempt(tools.add, 'x'))
print(attempt(tools.add, c=1))
print(attempt(tools.add))
print(attempt(tools.echo, float('nan')))
print(attempt(tools.echo, object()))
print(attempt(tools.call, 'secret'))
print(attempt(tools.big))
print(attempt(tools.echo, 'x' * 2_000_000))
print(attempt(tools.wait, 60))
print(attempt(tools.refund, 5), attempt(tools.refund, 50), attempt(tools.refund, 500))
print(isinstance(tools.ToolDeniedError(), PermissionError), hasattr(tools, 'secret'))
"""


async def test_code_calls_tools_from_threads_and_tasks(interpreter: CodeInterpreter) -> None:
    host = Host()
    token = request_id.set("request-7")
    execution = await run(interpreter, host, CALLS)
    request_id.reset(token)
    assert execution.error is None, execution.error
    assert execution.text == "{'id': 'request-7', 'main': False}"
    assert "add(a: float, b: float = 0)" in execution.stdout
    assert "The tool add." in execution.stdout
    names = [call.name for call in execution.tool_calls]
    assert names.count("add") == 45
    assert {call.status for call in execution.tool_calls} == {"succeeded"}
    later = await interpreter.session("one").run_code("tools.add(1)")
    assert later.error is not None
    assert later.error.message == "no run with host tools is in progress"
    shadowed = await interpreter.session("one").run_code("tools = 5\ntools")
    assert shadowed.text == "5"
    await interpreter.session("one").run_code("del tools")


@pytest.mark.quick("bwrap")
async def test_what_goes_wrong_is_an_exception_in_the_code(interpreter: CodeInterpreter) -> None:
    host = Host()
    execution = await run(interpreter, host, ERRORS)
    assert execution.error is None, execution.error
    lines = execution.stdout.splitlines()
    starts = [
        "ToolError: LookupError: no row 'x' at /srv/host/secret.py?sig=[redacted]",
        "ToolDeniedError: closed at night",
        "ToolArgumentError: add: arguments['a']: 'x' is not of type 'number'",
        "ToolArgumentError: add() has no parameter 'c'; the parameters are a, b",
        "ToolArgumentError: add() needs 'a'; the parameters are a, b",
        "ToolArgumentError: the arguments of echo() are not JSON data: ",
        "ToolArgumentError: the arguments of echo() are not JSON data: object ",
        "ToolArgumentError: no tool is called 'secret'; the tools are add, ",
        "ToolLimitError: the tool's result has 100,000,001 bytes or more, ",
        "ToolLimitError: the arguments have 2,000,",
        "ToolTimeoutError: the tool did not return within 3 s",
        "done done ToolDeniedError: the user did not approve the call of refund: too much",
        "True False",
    ]
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start), line
    assert "Traceback" not in execution.stdout
    assert host.cancelled == 1
    statuses = [call.status for call in execution.tool_calls]
    assert statuses == [
        *("failed", "denied", "rejected", "failed", "timed_out"),
        *("succeeded", "succeeded", "denied"),
    ]
    assert [call.arguments for call in execution.tool_calls[-3:]] == [
        {"a": 5},
        {"a": 50},
        {"a": 500},
    ]


@pytest.mark.quick("bwrap")
async def test_waiting_for_tools_is_not_the_runs_time_and_a_late_call_ends(
    interpreter: CodeInterpreter,
) -> None:
    host = Host()
    waited = await run(interpreter, host, "sum(tools.wait(0.7) for _ in range(3))", timeout=2)
    assert waited.error is None, waited.error
    late = await run(interpreter, host, "import time\ntools.wait(0.1)\ntime.sleep(60)", timeout=1)
    assert (late.status, late.state) == ("timed_out", "kept")
    code = "import asyncio\ntry: await asyncio.wait_for(tools.acall('wait', 60), 1)\n"
    code += "except TimeoutError: pass\ntools.add(1)"
    execution = await run(interpreter, host, code)
    assert execution.text == "1"
    assert [call.status for call in execution.tool_calls] == ["cancelled", "succeeded"]
    assert host.cancelled == 1


async def run_until_called(interpreter: CodeInterpreter, host: Host, code: str) -> Execution:
    """Run code that goes on once `wait_called()` has seen that the host began a call."""
    begun = host.started
    define = "def wait_called():\n    while not os.path.exists('called'): time.sleep(0.01)\n"
    code = f"import os, threading, time\n{define}{code}"
    task = asyncio.ensure_future(run(interpreter, host, code))
    with anyio.fail_after(60):
        while host.started == begun:
            await asyncio.sleep(0.02)
    await interpreter.session("one").files.upload(b"", name="called")
    return await task


@pytest.mark.quick("bwrap")
async def test_the_end_of_a_run_cancels_its_calls(interpreter: CodeInterpreter) -> None:
    host, session = Host(), interpreter.session("one")
    task = asyncio.ensure_future(run(interpreter, host, "tools.wait(2.5)"))
    while not host.started:
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    call = "threading.Thread(target=lambda: tools.wait(2.5)).start()"
    ended = await run_until_called(interpreter, host, f"{call}\nwait_called()\nos.remove('called')")
    assert [call.status for call in ended.tool_calls] == ["cancelled"]
    end = "threading.Thread(target=lambda: (wait_called(), os._exit(7))).start()"
    died = await run_until_called(interpreter, host, f"{end}\ntools.wait(2.5)")
    assert (died.status, died.state) == ("died", "lost")
    assert [call.status for call in died.tool_calls] == ["cancelled"]
    task = asyncio.ensure_future(run(interpreter, host, "tools.wait(2.5)"))
    while host.started < 4:
        await asyncio.sleep(0.02)
    await session.delete()
    assert (await task).status == "died"
    with anyio.fail_after(10):
        while host.cancelled < 4:
            await asyncio.sleep(0.02)


@pytest.mark.quick("bwrap")
async def test_a_tool_cannot_wait_for_its_own_session(interpreter: CodeInterpreter) -> None:
    async def again(code: str) -> str:
        return (await interpreter.session("one").run_code(code)).text

    async def other(code: str) -> str:
        return (await interpreter.session("two").run_code(code)).text

    schema = {"type": "object", "properties": {"code": {"type": "string"}}}
    tools = [HostTool("again", "", schema, again), HostTool("other", "", schema, other)]
    await interpreter.session("two").run_code("1")
    code = "print(tools.other('6 * 7'))\ntools.again('1')"
    execution = await interpreter.session("one").run_code(code, tools=tools)
    assert execution.stdout == "42\n"
    assert execution.error is not None
    assert "cannot run more code" in execution.error.message


async def test_what_a_tool_left_running_may_use_the_session_after_its_run(
    interpreter: CodeInterpreter,
) -> None:
    has_ended = anyio.Event()
    left: list[asyncio.Task[str]] = []

    async def run_later() -> str:
        await has_ended.wait()
        return (await interpreter.session("one").run_code("6 * 7")).text

    async def leave() -> None:
        left.append(asyncio.ensure_future(run_later()))
        code = "print(tools.later())"
        tools = [HostTool("later", "", {"type": "object"}, run_later)]
        runs.append(await interpreter.session("two").start_code(code, tools=tools))

    runs: list[BackgroundRun] = []
    tools = [HostTool("leave", "", {"type": "object"}, leave)]
    execution = await interpreter.session("one").run_code("tools.leave()", tools=tools)
    assert execution.error is None
    has_ended.set()
    with anyio.fail_after(60):
        assert await left[0] == "42"
        execution = await runs[0].wait()
    assert execution is not None
    assert (execution.error, execution.stdout) == (None, "42\n")


FORGED = """
for number, name, payload in [
    (901, 'secret', b'{}'), (902, 'add', b'{"a": "x"}'), (903, 'add', b'not json'),
    (904, 'add', b'[' * 100_000), (905, 'add', b'{"a": 1e999}'), (906, 'refund', b'{"a": 500}'),
    (907, 'add' * 200, b'{}'), (908, 'add', b'{"a": 1, "b": ' + b'9' * 9000 + b'}'),
]:
    send({'call': number, 'run': run, 'name': name}, payload)
send({'call': 909, 'run': 'another', 'name': 'echo'})
send({'cancel': 'x', 'run': run}); send({'cancel': 910, 'run': run}); send({'run': run})
time.sleep(0.3)
tools.add(1)
"""
INVALID = {
    "too large": r"client._socket.sendall(b'\xff\xff\xff\xff' + b'x' * 100)",
    "a flood": "[send({'cancel': 1, 'run': 'old'}) for _ in range(2000)]",
}


async def test_forged_calls_reach_no_tool(interpreter: CodeInterpreter) -> None:
    host = Host()
    execution = await run(interpreter, host, FORGE + FORGED)
    assert execution.error is None, execution.error
    assert execution.text == "1"
    statuses = [call.status for call in execution.tool_calls]
    assert statuses == [*["rejected"] * 5, "denied", "rejected", "rejected", "succeeded"]
    assert host.seen == []


@pytest.mark.parametrize("message", ["too large", pytest.param("a flood", marks=pytest.mark.full)])
@pytest.mark.quick("bwrap")
async def test_an_invalid_message_ends_the_calls_and_nothing_else(
    interpreter: CodeInterpreter, message: str
) -> None:
    host = Host()
    code = f"{FORGE}\ntry:\n    {INVALID[message]}\n    time.sleep(0.2)\nexcept OSError: pass\n"
    execution = await run(interpreter, host, code + "tools.add(1)")
    assert execution.error is not None
    assert "closed the connection" in execution.error.message
    assert "can call no host tools any longer" in execution.notes[-1]
    assert (execution.state, host.seen) == ("kept", [])
    after = await run(interpreter, host, "tools.add(1)")
    assert "can call no host tools any longer" in after.notes[-1]
    assert (await interpreter.session("one").run_code("1 + 1")).text == "2"
    await interpreter.session("one").delete()
    assert (await run(interpreter, host, "tools.add(2)")).text == "2"


FLOOD = """
for number in range(250):
    send({'call': 10_000 + number, 'run': run, 'name': 'wait'}, b'{"a": 0.01}')
"""


@pytest.mark.full
async def test_floods_are_bounded(interpreter: CodeInterpreter) -> None:
    host = Host()
    flood = await run(interpreter, host, FORGE + FLOOD + "\ntools.add(1)")
    assert flood.error is None, flood.error
    loop = "import contextlib\nfor _ in range(400):\n"
    loop += "    with contextlib.suppress(tools.ToolLimitError): tools.add(1)\n"
    many = await run(interpreter, host, loop)
    assert many.error is None, many.error
    assert len(many.tool_calls) == LIMITS.tool_calls
    code = "for _ in range(20): tools.echo('x' * 900_000)"
    large = await run(interpreter, host, code)
    assert large.error is not None
    assert large.error.name == "ToolLimitError"
    assert "8,388,608 bytes together" in large.error.message
    unread = FORGE + (
        "client._socket.setsockopt(1, 8, 4096)\n"
        "client._receive = lambda size: time.sleep(100)\n"
        "for number in range(200):\n"
        "    send({'call': 5000 + number, 'run': run, 'name': 'echo'}, b'{\"a\": \"%s\"}' "
        "% (b'x' * 100_000))\n"
    )
    stuck = await run(interpreter, host, unread, timeout=3)
    assert stuck.status in {"timed_out", "succeeded", "failed"}
    await interpreter.session("one").delete()
    assert (await run(interpreter, host, "tools.add(2)")).text == "2"


async def test_programs_of_the_code_do_not_get_the_socket(interpreter: CodeInterpreter) -> None:
    code = """
import os, subprocess, sys
fd = vars(tools)['_Tools__client']._socket.fileno()
show = f"import os\\ntry: os.fstat({fd}); print('open')\\nexcept OSError: print('closed')"
print(subprocess.run([sys.executable, '-c', show], capture_output=True, text=True).stdout.strip())
print(subprocess.run([sys.executable, '-c', show], capture_output=True, text=True,
    close_fds=False).stdout.strip())
if os.fork() == 0:
    try: os.fstat(fd); print('open', flush=True)
    except OSError: print('closed', flush=True)
    try: tools.add(1)
    except tools.ToolError as error: print(error, flush=True)
    os._exit(0)
os.wait()
tools.add(3)
"""
    execution = await run(interpreter, Host(), code)
    lines = execution.stdout.splitlines()
    assert lines == [
        *["closed"] * 3,
        "a child process cannot call tools; call them in the main process",
    ]
    assert execution.text == "3"


@pytest.mark.quick("bwrap")
async def test_sessions_do_not_call_for_each_other(interpreter: CodeInterpreter) -> None:
    mine, other = Host(), Host()
    task = asyncio.ensure_future(run(interpreter, mine, "tools.wait(0.5)"))
    while not mine.started:
        await asyncio.sleep(0.02)
    tools = [HostTool("echo", "", ANY, other.echo)]
    execution = await interpreter.session("two").run_code("tools.wait(1)", tools=tools)
    assert execution.error is not None
    assert execution.error.name == "AttributeError"
    assert (await task).text == "0.5"


def test_blocking_callers_have_the_same_tools() -> None:
    async def add(a: float, b: float = 0) -> float:
        await asyncio.sleep(0)
        return a + b

    tools = [HostTool("add", "", NUMBERS, add), HostTool("plus", "", NUMBERS, lambda a, b: a + b)]
    pool = LocalSessionPool(isolation="process", ready_sessions=0, preload=())
    with BlockingInterpreter(pool) as interpreter:
        without = interpreter.run_code("tools.add(1)")
        assert without.error is not None
        assert without.error.name == "NameError"
        execution = interpreter.run_code("tools.add(1, 2) + tools.plus(3, 4)", tools=tools)
        assert execution.text == "10"
        notebook = json.loads(interpreter.session().notebook())
        calls = notebook["cells"][1]["metadata"]["cci_plugins"]["tool_calls"]
        assert [call["name"] for call in calls] == ["add", "plus"]
        rule = HostTool("rule", "", NUMBERS, add, needs_approval=True)
        with pytest.raises(ConfigurationError, match="needs approval"):
            interpreter.run_code("1", tools=[rule])


PROGRAM = """
import asyncio, sys
from cci_plugins import CodeInterpreter, HostTool, LocalSessionPool

async def main():
    async def hang():
        print("called", flush=True)
        await asyncio.sleep(100)
    pool = LocalSessionPool(isolation=sys.argv[1], ready_sessions=0, preload=())
    async with CodeInterpreter(pool) as interpreter:
        tool = HostTool("hang", "", {"type": "object"}, hang)
        await interpreter.run_code("tools.hang()", tools=[tool])

asyncio.run(main())
"""


@pytest.mark.full
def test_a_host_that_dies_ends_the_run_that_waits_for_it(backend: str) -> None:
    psutil = pytest.importorskip("psutil")
    command = [sys.executable, "-c", PROGRAM, backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        lines = iter(host.stdout.readline, "")
        assert "called" in (line.strip() for line in lines)
        session = psutil.Process(host.pid).children(recursive=True)
        assert len(session) >= 2
        host.kill()
    _, alive = psutil.wait_procs(session, timeout=30)
    assert [one.pid for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
