"""The Semantic Kernel plugin: result object, hidden argument, the warning."""

from __future__ import annotations

import logging

import pytest
from semantic_kernel import Kernel
from semantic_kernel.functions import KernelArguments

from cci_plugins import CodeInterpreter, Execution
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from cci_plugins.testing import FakeSessionPool
from cci_plugins.tools.execute_code import NAME, ToolReply

pytestmark = pytest.mark.anyio


async def test_the_result_is_text_for_the_model_and_an_execution_for_the_application() -> None:
    async with CodeInterpreter(FakeSessionPool(Execution(stdout="42\n"))) as interpreter:
        kernel = Kernel()
        plugin = kernel.add_plugin(CodeInterpreterPlugin(interpreter), "code_interpreter")
        result = await kernel.invoke(plugin[NAME], KernelArguments(code="1", session_id="a"))
    assert result is not None
    assert str(result) == "42"
    assert isinstance(result.value, ToolReply)
    assert result.value.execution.stdout == "42\n"


async def test_the_hidden_argument_and_use_session_name_the_conversation() -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        plugin = CodeInterpreterPlugin(interpreter)
        await plugin.execute_code("1", session_id="alice")
        with interpreter.use_session("alice"):
            await plugin.execute_code("1")
    assert len({session_id for session_id, _ in pool.calls}) == 1


async def test_the_application_can_name_the_session_of_a_plugin(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        plugin = CodeInterpreterPlugin(interpreter, session_key="team")
        with caplog.at_level(logging.WARNING, "cci_plugins"):
            await plugin.execute_code("1")
        with interpreter.use_session("alice"):
            await plugin.execute_code("1")
        keys = [interpreter.session(key).id for key in ("team", "alice")]
    assert [session_id for session_id, _ in pool.calls] == keys
    assert caplog.text == ""


async def test_an_unnamed_conversation_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        plugin, other = CodeInterpreterPlugin(interpreter), CodeInterpreterPlugin(interpreter)
        with caplog.at_level(logging.WARNING, "cci_plugins"):
            await plugin.execute_code("1")
            await plugin.execute_code("1")
        assert caplog.text.count("no conversation was named") == 1
        await other.execute_code("1")
    assert len({session_id for session_id, _ in pool.calls}) == 2
