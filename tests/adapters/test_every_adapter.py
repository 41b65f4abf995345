"""Every adapter has one schema, one default interpreter, raises nothing and runs in parallel."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from datetime import timedelta
from json import dumps
from typing import Any

import anyio
import pytest
from agent_framework import AgentSession, FunctionInvocationContext
from agents.tool_context import ToolContext
from langchain_core.utils.function_calling import convert_to_openai_tool
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai.function_calling_utils import (
    kernel_function_metadata_to_function_call_format,
)

from cci_plugins import ApprovalRequest, CodeInterpreter, Decision, Execution
from cci_plugins import agent_framework as agent_framework_adapter
from cci_plugins import openai_agents as openai_agents_adapter
from cci_plugins.common import event_loop
from cci_plugins.langchain import CodeInterpreterTool
from cci_plugins.pools.base import OutputHandler
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from cci_plugins.testing import FakeSessionPool
from cci_plugins.tools import execute_code


async def through_langchain(interpreter: CodeInterpreter | None, key: str, code: str) -> str:
    config = {"configurable": {"thread_id": key}}
    code_interpreter = CodeInterpreterTool(interpreter=interpreter)
    return str(await code_interpreter.ainvoke({"code": code}, config))


async def through_semantic_kernel(interpreter: CodeInterpreter | None, key: str, code: str) -> str:
    return str(await CodeInterpreterPlugin(interpreter).execute_code(code, session_id=key))


async def through_agent_framework(interpreter: CodeInterpreter | None, key: str, code: str) -> str:
    tool = agent_framework_adapter.code_interpreter_tool(interpreter)
    session = AgentSession(session_id=key)
    context = FunctionInvocationContext(tool, {"code": code}, session)
    (content,) = await tool.invoke(context=context)
    return str(content.text)


async def through_openai_agents(interpreter: CodeInterpreter | None, key: str, code: str) -> str:
    tool = openai_agents_adapter.code_interpreter_tool(interpreter)
    arguments = dumps({"code": code})
    context = ToolContext(
        {"session_id": key}, tool_name=execute_code.NAME, tool_call_id="1", tool_arguments=arguments
    )
    return str(await tool.on_invoke_tool(context, arguments))


ADAPTERS = {
    "agent-framework": through_agent_framework,
    "langchain": through_langchain,
    "openai-agents": through_openai_agents,
    "semantic-kernel": through_semantic_kernel,
}


@pytest.fixture(params=ADAPTERS)
def call_adapter(request: pytest.FixtureRequest) -> Callable[..., Awaitable[str]]:
    return ADAPTERS[request.param]


def schema_of_langchain() -> dict[str, Any]:
    function = convert_to_openai_tool(CodeInterpreterTool())["function"]
    return {**function, "name": function["name"]}


def schema_of_semantic_kernel() -> dict[str, Any]:
    plugin = Kernel().add_plugin(CodeInterpreterPlugin(), "code_interpreter")
    shown = kernel_function_metadata_to_function_call_format(plugin[execute_code.NAME].metadata)
    function = dict(shown["function"])
    return {**function, "name": function["name"].removeprefix("code_interpreter-")}


def schema_of_agent_framework() -> dict[str, Any]:
    return dict(agent_framework_adapter.code_interpreter_tool().to_json_schema_spec()["function"])


def schema_of_openai_agents() -> dict[str, Any]:
    shown = openai_agents_adapter.code_interpreter_tool()
    assert shown.strict_json_schema
    about = {"name": shown.name, "description": shown.description}
    return {**about, "parameters": shown.params_json_schema}


@pytest.mark.parametrize(
    "schema",
    [
        schema_of_agent_framework,
        schema_of_langchain,
        schema_of_openai_agents,
        schema_of_semantic_kernel,
    ],
)
def test_every_adapter_shows_the_same_tool(schema: Callable[[], dict[str, Any]]) -> None:
    shown = schema()
    assert (shown["name"], shown["description"]) == (execute_code.NAME, execute_code.DESCRIPTION)
    parameters = {"additionalProperties": False, **shown["parameters"]}
    assert parameters == execute_code.PARAMETERS


@pytest.fixture
def no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute_code, "_default", [])


@pytest.mark.anyio
@pytest.mark.usefixtures("no_default")
async def test_adapters_without_an_interpreter_share_one_created_at_first_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = FakeSessionPool()
    made: list[CodeInterpreter] = []

    def from_env() -> CodeInterpreter:
        made.append(CodeInterpreter(pool))
        return made[-1]

    monkeypatch.setattr(CodeInterpreter, "from_env", from_env)
    tools = CodeInterpreterTool(), CodeInterpreterPlugin()
    more = (
        agent_framework_adapter.CodeInterpreterProvider(),
        openai_agents_adapter.code_interpreter_tool(),
    )
    assert tools
    assert more
    assert made == []
    for through in ADAPTERS.values():
        await through(None, "alice", "1")
    assert len(made) == 1
    assert len({session_id for session_id, _ in pool.calls}) == 1
    await made[0].aclose()


@pytest.mark.usefixtures("no_default")
def test_threads_at_the_same_time_get_one_default_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CodeInterpreter, "from_env", lambda: CodeInterpreter(FakeSessionPool()))
    together, found = threading.Barrier(8), list[CodeInterpreter]()

    def ask() -> None:
        together.wait(timeout=10)
        found.append(execute_code.get_default_interpreter())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(found) == 8
    assert len({id(each) for each in found}) == 1


@pytest.mark.anyio
@pytest.mark.usefixtures("no_default")
async def test_a_half_configured_environment_is_a_sentence_not_an_exception(
    call_adapter: Callable[..., Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_ENDPOINT", "https://example.invalid/mcp")
    assert "AZURE_SESSION_POOL_MCP_KEY is not set" in await call_adapter(None, "alice", "1")


@pytest.mark.anyio
async def test_an_adapter_returns_text_and_raises_nothing(
    call_adapter: Callable[..., Awaitable[str]],
) -> None:
    class Broken(FakeSessionPool):
        async def execute(self, *_: object, **__: object) -> Execution:  # type: ignore[override]
            raise RuntimeError("sig=SECRET")

    async with CodeInterpreter(Broken()) as interpreter:
        seen = await call_adapter(interpreter, "alice", "1")
    assert "failed unexpectedly" in seen
    assert "SECRET" not in seen


@pytest.mark.anyio
async def test_an_exception_of_the_approver_counts_as_a_denial(
    call_adapter: Callable[..., Awaitable[str]],
) -> None:
    async def approve(_: ApprovalRequest) -> Decision:
        raise ConnectionError("sig=SECRET")

    pool = FakeSessionPool()
    async with CodeInterpreter(pool, approve=approve) as interpreter:
        seen = await call_adapter(interpreter, "alice", "1")
    assert "was not run" in seen
    assert "SECRET" not in seen
    assert pool.calls == []


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.quick("agent-framework")
async def test_eight_conversations_run_in_parallel(
    call_adapter: Callable[..., Awaitable[str]], warm: CodeInterpreter
) -> None:
    keys = [f"parallel-{number}" for number in range(8)]
    await asyncio.gather(*(call_adapter(warm, key, f"import time; mine = {key!r}") for key in keys))
    code = "import os\nopen('begun', 'w').close()\n"
    code += "while not os.path.exists('go'): time.sleep(0.01)\n"
    code += "os.remove('begun'); os.remove('go'); print(mine)"

    async def let_go_once_all_run() -> None:
        for key in keys:
            files = warm.session(key).files
            while "begun" not in {file.name for file in await files.list()}:
                await asyncio.sleep(0.02)
        for key in keys:
            await warm.session(key).files.upload(b"", name="go")

    with anyio.fail_after(60):
        *seen, _ = await asyncio.gather(
            *(call_adapter(warm, key, code) for key in keys), let_go_once_all_run()
        )
    assert seen == keys
    for key in keys:
        await warm.session(key).delete()


class Endless(FakeSessionPool):
    """Runs until it is cancelled. `began` is called when a run begins."""

    def __init__(self, began: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self.began = began
        self.cancelled = threading.Event()

    async def execute(
        self,
        session_id: str,
        code: str,
        *,
        timeout: timedelta,
        on_output: OutputHandler | None = None,
        instance: str | None = None,
    ) -> Execution:
        try:
            await self.began()
            await anyio.sleep_forever()
        finally:
            self.cancelled.set()
        raise AssertionError


def callers(thread: int) -> list[str]:
    frames = traceback.walk_stack(sys._current_frames()[thread])
    return [frame.f_code.co_name for frame, _ in frames]


async def interrupt_the_waiting_main_thread() -> None:
    main = threading.main_thread().ident or 0
    with anyio.fail_after(10):
        while callers(main)[:3] != ["wait", "result", event_loop.run_blocking.__name__]:
            await anyio.sleep(0.01)
    signal.pthread_kill(main, signal.SIGINT)


def test_interrupting_a_blocking_call_stops_the_code() -> None:
    pool = Endless(interrupt_the_waiting_main_thread)
    with pytest.raises(KeyboardInterrupt):
        CodeInterpreterTool(interpreter=CodeInterpreter(pool)).invoke({"code": "1"})
    assert pool.cancelled.wait(timeout=5)


@pytest.mark.anyio
async def test_cancelling_a_call_stops_the_code(
    call_adapter: Callable[..., Awaitable[str]],
) -> None:
    loop, begun = asyncio.get_running_loop(), asyncio.Event()

    async def tell() -> None:
        loop.call_soon_threadsafe(begun.set)

    pool = Endless(tell)
    with anyio.fail_after(10):
        task = asyncio.create_task(call_adapter(CodeInterpreter(pool), "alice", "1"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(pool.cancelled.wait, 5)


def test_a_missing_framework_is_named_with_its_pip_line_in_the_traceback() -> None:
    for package, module, extra in (
        ("agent_framework", "agent_framework", "agent-framework"),
        ("agents", "openai_agents", "openai-agents"),
        ("langchain_core", "langchain", "langchain"),
        ("semantic_kernel", "semantic_kernel", "semantic-kernel"),
    ):
        program = f"import sys; sys.modules['{package}'] = None; import cci_plugins.{module}"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, check=False, text=True
        )
        assert f'hint: pip install "cci-plugins[{extra}]"' in done.stderr
