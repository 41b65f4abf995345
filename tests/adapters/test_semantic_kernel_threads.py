"""Threads that make the first calls of a process together, each with a kernel of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent("""
    import asyncio, sys, threading
    from semantic_kernel import Kernel
    from semantic_kernel.contents import ChatHistory, FunctionCallContent
    from semantic_kernel.filters import AutoFunctionInvocationContext
    from cci_plugins import CodeInterpreter, Execution
    from cci_plugins.semantic_kernel import CodeInterpreterPlugin
    from cci_plugins.testing import FakeSessionPool

    assert AutoFunctionInvocationContext.__pydantic_complete__
    sys.setswitchinterval(1e-4)
    interpreter = CodeInterpreter(FakeSessionPool(Execution(stdout="42")))
    answers = []

    async def call():
        kernel = Kernel()
        kernel.add_plugin(CodeInterpreterPlugin(interpreter), "python")
        arguments = {"code": "1", "session_id": "alice"}
        content = FunctionCallContent(id="1", name="python-execute_code", arguments=arguments)
        history = ChatHistory()
        await kernel.invoke_function_call(content, history)
        answers.append(str(history.messages[-1].items[0].result))

    threads = [threading.Thread(target=asyncio.run, args=(call(),)) for _ in range(4)]
    [each.start() for each in threads]; [each.join() for each in threads]
    print(answers)
""")


@pytest.mark.slow
@pytest.mark.full
def test_the_first_calls_in_several_threads_give_the_model_the_results() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        capture_output=True,
        check=False,
        text=True,
        timeout=280,
    )
    assert done.stderr == ""
    assert done.stdout.strip() == str(["42"] * 4)
