"""The LangChain toolkit: LangChain's own tests of each tool, one session, bounds, failures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from cci_plugins import CodeInterpreter, Execution, Limits, LocalSessionPool
from cci_plugins.errors import PoolUnavailableError
from cci_plugins.langchain import CodeInterpreterToolkit
from cci_plugins.models import FileInfo
from cci_plugins.testing import FakeSessionPool

LIMITS = Limits(output_characters=1_000)


@pytest.fixture(scope="module")
def fake() -> CodeInterpreter:
    return CodeInterpreter(FakeSessionPool(Execution(stdout="2")), limits=LIMITS)


def tools_of(interpreter: CodeInterpreter) -> dict[str, BaseTool]:
    made = CodeInterpreterToolkit(interpreter=interpreter).get_tools()
    return {tool.name: tool for tool in made}


class UnitTests(ToolsUnitTests):
    name: str
    arguments: dict[str, Any]

    @property
    def tool_constructor(self) -> BaseTool:
        return tools_of(CodeInterpreter(FakeSessionPool()))[self.name]

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return self.arguments


class TestExecuteCode(UnitTests):
    name, arguments = "execute_code", {"code": "print(1 + 1)"}


class TestListFiles(UnitTests):
    name, arguments = "list_files", {}


class TestReadFile(UnitTests):
    name, arguments = "read_file", {"name": "a.txt", "offset": 1}


@pytest.mark.slow
@pytest.mark.anyio
class IntegrationTests(ToolsIntegrationTests):
    name: str
    arguments: dict[str, Any]
    made: dict[str, BaseTool]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def tools(cls) -> Iterator[None]:
        interpreter = CodeInterpreter(LocalSessionPool(preload=()))
        cls.made = tools_of(interpreter)
        cls.made["execute_code"].invoke({"code": "open('a.txt', 'w').write('one\\ntwo')"})
        yield
        asyncio.run(interpreter.aclose())

    @property
    def tool_constructor(self) -> BaseTool:
        return self.made[self.name]

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return self.arguments


class TestExecuteCodeForReal(IntegrationTests):
    name, arguments = "execute_code", {"code": "print(1 + 1)"}


class TestListFilesForReal(IntegrationTests):
    name, arguments = "list_files", {}


class TestReadFileForReal(IntegrationTests):
    name, arguments = "read_file", {"name": "a.txt", "offset": 1}


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": "call-1", "name": name, "args": arguments}


@pytest.mark.anyio
@pytest.mark.slow
async def test_all_tools_work_in_one_session(interpreter: CodeInterpreter) -> None:
    tools = tools_of(interpreter)
    await tools["execute_code"].ainvoke(call("execute_code", code="open('a.txt','w').write('hi')"))
    listed = await tools["list_files"].ainvoke(call("list_files"))
    assert listed.content == "a.txt (2 bytes)"
    assert [file.name for file in listed.artifact] == ["a.txt"]
    for name in ("a.txt", "/mnt/data/a.txt"):
        assert (await tools["read_file"].ainvoke(call("read_file", name=name))).content == "hi"
    thread: Any = {"configurable": {"thread_id": "elsewhere"}}
    assert await tools["list_files"].ainvoke({}, thread) == "(no files)"
    assert await asyncio.to_thread(tools["list_files"].invoke, {}) == "a.txt (2 bytes)"
    assert await asyncio.to_thread(tools["read_file"].invoke, {"name": "a.txt"}) == "hi"
    with interpreter.use_session("named") as session:
        await session.files.upload(b"", name="empty.txt")
        assert await tools["list_files"].ainvoke({}, thread) == "empty.txt (0 bytes)"
        assert await tools["read_file"].ainvoke({"name": "empty.txt"}) == "(the file is empty)"


@pytest.mark.anyio
async def test_a_long_file_is_read_in_parts_within_the_budget(fake: CodeInterpreter) -> None:
    lines = [f"line {number}" for number in range(1, 501)]
    wide = "x" * 5_000
    read = tools_of(fake)["read_file"]
    with fake.use_session("long") as session:
        await session.files.upload("\n".join(lines).encode(), name="long.txt")
        await session.files.upload(f"{wide}\nafter\n".encode(), name="wide.txt")
        seen: list[str] = []
        while len(seen) < len(lines):
            text = await read.ainvoke({"name": "long.txt", "offset": len(seen)})
            assert len(text) <= 1_000
            *part, last = text.split("\n")
            seen += part
            if last.startswith("["):
                left = f"[lines {len(seen) + 1} to 500 left out; read on with offset={len(seen)}]"
                assert last == left
            else:
                seen.append(last)
        assert seen == lines
        text = await read.ainvoke({"name": "wide.txt"})
        assert len(text) <= 1_000
        assert "characters left out" in text
        assert text.endswith("read on with offset=1]")
        assert await read.ainvoke({"name": "wide.txt", "offset": 1}) == "after"


@pytest.mark.anyio
async def test_many_files_are_listed_within_the_budget(fake: CodeInterpreter) -> None:
    with fake.use_session("many") as session:
        for number in range(100):
            await session.files.upload(b"1", name=f"file-{number:03}.txt")
        message = await tools_of(fake)["list_files"].ainvoke(call("list_files"))
    assert len(message.content) <= 1_000
    assert message.content.endswith(" more files]")
    assert len(message.artifact) == 100


@pytest.mark.anyio
async def test_an_unreadable_file_is_an_error_in_words(fake: CodeInterpreter) -> None:
    read = tools_of(fake)["read_file"]
    with fake.use_session("odd") as session:
        await session.files.upload(b"\x89PNG\r\n\x1a\n\xff", name="chart.png")
        await session.files.upload(b"a\0b", name="zeros.txt")
        await session.files.upload(b"x" * (4 * 1024**2 + 1), name="huge.csv")
        await session.files.upload(b"one\n", name="one.txt")
        messages = {
            name: await read.ainvoke(call("read_file", name=name, offset=1))
            for name in ("chart.png", "zeros.txt", "huge.csv", "one.txt", "../x", "none.txt")
        }
    assert all(isinstance(one, ToolMessage) and one.status == "error" for one in messages.values())
    texts = {name: one.content for name, one in messages.items()}
    assert texts["chart.png"] == (
        "chart.png is not text: image/png, 9 bytes; open it with execute_code"
    )
    assert "not text" in texts["zeros.txt"]
    assert "too large to be shown" in texts["huge.csv"]
    assert texts["one.txt"] == "(the file has 1 lines)"
    assert texts["../x"] == "the session has no file '../x'."
    assert texts["none.txt"] == "the session has no file 'none.txt'."


@pytest.mark.anyio
async def test_a_signature_in_a_file_is_redacted(fake: CodeInterpreter) -> None:
    signature = "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE%3D"
    url = f"https://a.blob.core.windows.net/c/b?sv=2025-01-05&sr=b&sp=r&sig={signature}"
    with fake.use_session("secret") as session:
        await session.files.upload(url.encode(), name="link.txt")
        message = await tools_of(fake)["read_file"].ainvoke(call("read_file", name="link.txt"))
    assert "a.blob.core.windows.net" in message.content
    assert signature not in repr(message)


@pytest.mark.anyio
async def test_a_failing_pool_is_an_error_in_words() -> None:
    class Broken(FakeSessionPool):
        async def list_files(self, session_id: str) -> list[FileInfo]:
            if session_id:
                raise PoolUnavailableError("no session pool today")
            return []

    class Odd(FakeSessionPool):
        async def list_files(self, session_id: str) -> list[FileInfo]:
            raise ZeroDivisionError("secret detail")

    for pool, expected in ((Broken(), "no session pool today"), (Odd(), "failed unexpectedly")):
        async with CodeInterpreter(pool) as interpreter:
            tools = tools_of(interpreter)
            for name, arguments in (("list_files", {}), ("read_file", {"name": "a"})):
                message = await tools[name].ainvoke(call(name, **arguments))
                assert message.status == "error"
                assert expected in message.content
                assert "secret detail" not in message.content


def test_the_interpreter_is_in_no_repr_or_dump(fake: CodeInterpreter) -> None:
    toolkit = CodeInterpreterToolkit(interpreter=fake)
    for each in (toolkit, *toolkit.get_tools()):
        assert "interpreter=" not in repr(each)
        assert "session_key" not in repr(each)
        assert "interpreter" not in each.model_dump()
