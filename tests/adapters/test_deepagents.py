"""The Deep Agents sandbox: LangChain's own suite, limits, losses, approval, a whole agent."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import anyio
import pytest

pytest.importorskip("deepagents")

from deepagents import create_deep_agent
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import SandboxIntegrationTests
from openai import DefaultAsyncHttpxClient

from cci_plugins import CodeInterpreter, Execution, Limits, LocalSessionPool
from cci_plugins.common import event_loop
from cci_plugins.common.approval import ApprovalRequest, Decision
from cci_plugins.deepagents import CodeInterpreterSandbox
from cci_plugins.errors import PoolUnavailableError
from cci_plugins.testing import FakeSessionPool, Script, ScriptedCall, ScriptedModel
from cci_plugins.testing.scripted_model import apis

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
FROM_0_7 = tuple(map(int, version("deepagents").split(".")[:2])) >= (0, 7)
before_0_7 = pytest.mark.xfail(
    FROM_0_7,
    reason="from 0.7 on deepagents' own glob gives absolute paths of files and its write replaces; "
    "langchain-tests 1.1.9 tests the earlier behaviour (langchain-ai/langchain#40283)",
)


@pytest.fixture(scope="module")
def interpreter() -> Iterator[CodeInterpreter]:
    made = CodeInterpreter(LocalSessionPool(preload=()))
    yield made
    asyncio.run(made.aclose())


@pytest.fixture
def sandbox(interpreter: CodeInterpreter) -> CodeInterpreterSandbox:
    return CodeInterpreterSandbox(interpreter)


class TestSandbox(SandboxIntegrationTests):
    @pytest.fixture(scope="class")
    @classmethod
    def sandbox(cls, interpreter: CodeInterpreter) -> CodeInterpreterSandbox:
        return CodeInterpreterSandbox(interpreter)

    @pytest.fixture(scope="class")
    @classmethod
    def sandbox_backend(cls, sandbox: CodeInterpreterSandbox) -> CodeInterpreterSandbox:
        return sandbox  # as the suite has it, for which pytest 9 emits a warning on an instance

    @before_0_7
    def test_glob(self, sandbox_backend: CodeInterpreterSandbox, sandbox_test_root: str) -> None:
        super().test_glob(sandbox_backend, sandbox_test_root)

    @before_0_7
    def test_write_existing_file_fails(
        self, sandbox_backend: CodeInterpreterSandbox, sandbox_test_root: str
    ) -> None:
        super().test_write_existing_file_fails(sandbox_backend, sandbox_test_root)

    @before_0_7
    def test_glob_basic_pattern(
        self, sandbox_backend: CodeInterpreterSandbox, sandbox_test_root: str
    ) -> None:
        super().test_glob_basic_pattern(sandbox_backend, sandbox_test_root)

    @before_0_7
    def test_glob_with_directories(
        self, sandbox_backend: CodeInterpreterSandbox, sandbox_test_root: str
    ) -> None:
        super().test_glob_with_directories(sandbox_backend, sandbox_test_root)

    @before_0_7
    def test_glob_hidden_files_explicitly(
        self, sandbox_backend: CodeInterpreterSandbox, sandbox_test_root: str
    ) -> None:
        super().test_glob_hidden_files_explicitly(sandbox_backend, sandbox_test_root)

    @before_0_7
    def test_glob_with_character_class(
        self, sandbox_backend: CodeInterpreterSandbox, sandbox_test_root: str
    ) -> None:
        super().test_glob_with_character_class(sandbox_backend, sandbox_test_root)

    @before_0_7
    def test_glob_with_question_mark(
        self, sandbox_backend: CodeInterpreterSandbox, sandbox_test_root: str
    ) -> None:
        super().test_glob_with_question_mark(sandbox_backend, sandbox_test_root)


@pytest.mark.skipif(not FROM_0_7, reason="what deepagents promises since 0.7")
def test_glob_and_write_keep_the_contract_of_deepagents_0_7(
    sandbox: CodeInterpreterSandbox,
) -> None:
    folder = "/tmp/contract"
    for name in ("file1.txt", "file2.txt", "file10.txt", "fileA.txt", ".hidden", "in/file3.txt"):
        assert sandbox.write(f"{folder}/{name}", "first").error is None
    patterns = {
        "file?.txt": ["file1.txt", "file2.txt", "fileA.txt", "in/file3.txt"],
        "file[1-2].txt": ["file1.txt", "file2.txt"],
        ".*": [".hidden"],
        "in/*": ["in/file3.txt"],
        "in": [],
    }
    for pattern, names in patterns.items():
        found = sandbox.glob(pattern, folder)
        assert found.error is None
        assert found.matches is not None
        assert sorted(match["path"] for match in found.matches) == [f"{folder}/{n}" for n in names]
    assert sandbox.write(f"{folder}/file1.txt", "second").error is None
    assert sandbox.execute(f"cat {folder}/file1.txt").output == "second"


async def test_a_command_has_its_output_in_order_its_exit_code_and_no_input(
    sandbox: CodeInterpreterSandbox,
) -> None:
    response = await sandbox.aexecute(
        "pwd; cat; echo problem >&2; printf '\\xff\\360\\237\\230\\200'; exit 3"
    )
    assert response.output == "/mnt/data\nproblem\n\N{REPLACEMENT CHARACTER}\N{GRINNING FACE}"
    assert (response.exit_code, response.truncated) == (3, False)
    assert (await sandbox.aexecute("kill -TERM $$")).exit_code == 128 + 15
    assert (await sandbox.aexecute("nowhere")).exit_code == 127
    assert (
        await sandbox.aexecute(f": {'x' * 200_000}")
    ).exit_code == 126  # longer than Linux takes


async def test_codes_for_a_terminal_are_removed_from_a_commands_output(
    sandbox: CodeInterpreterSandbox,
) -> None:
    command = r"printf '\033[1;31mred\033[0m \033]0;title\007\033(Bplain \033[?25l\033[2Kend\n'"
    assert (await sandbox.aexecute(command)).output == "red plain end\n"
    assert (await sandbox.awrite("/tmp/codes.txt", "\x1b[31mred")).error is None
    (got,) = await sandbox.adownload_files(["/tmp/codes.txt"])
    assert got.content == b"\x1b[31mred"


@pytest.mark.parametrize("isolation", ["bwrap", "landlock"])
async def test_files_with_names_that_other_systems_reserve_are_written_and_read(
    isolation: Any,
) -> None:
    if isolation == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    names = ["re\u0301sume\u0301.txt", "aux.py", "con.md", "notes.", "c:x", "tail "]
    async with CodeInterpreter(LocalSessionPool(isolation=isolation)) as interpreter:
        sandbox = CodeInterpreterSandbox(interpreter)
        for folder in ("/mnt/data", "/mnt/data/sub"):
            paths = [f"{folder}/{name}" for name in names]
            sent = await sandbox.aupload_files([(path, path.encode()) for path in paths])
            assert [one.error for one in sent] == [None] * len(names)
            again = await sandbox.aupload_files([(path, b"2" + path.encode()) for path in paths])
            assert [one.error for one in again] == [None] * len(names)
            got = await sandbox.adownload_files(paths)
            assert [(one.error, one.content) for one in got] == [
                (None, b"2" + path.encode()) for path in paths
            ]
        listed = await sandbox.aexecute("ls -A1 .")
        assert sorted(listed.output.splitlines()) == sorted([*names, "sub"])


async def test_too_much_output_is_cut_in_the_middle_with_a_note(
    sandbox: CodeInterpreterSandbox,
) -> None:
    response = await sandbox.aexecute("seq 1 1000000; exit 2")
    assert (response.exit_code, response.truncated) == (2, True)
    assert len(response.output) < 1_000_100
    assert response.output.startswith("1\n2\n")
    assert response.output.endswith("999999\n1000000\n")
    assert "characters not kept ...]" in response.output


async def test_a_time_out_ends_the_whole_command_and_keeps_the_session(
    interpreter: CodeInterpreter,
) -> None:
    sandbox = CodeInterpreterSandbox(interpreter, session_key="time-out")
    await interpreter.session("time-out").run_code("kept = 1")
    response = await sandbox.aexecute("echo begun; sleep 1234 | sleep 1234", timeout=1)
    assert response.exit_code == 124
    assert response.output.startswith("begun\n")
    assert "1 seconds" in response.output
    assert (await sandbox.aexecute("pgrep -f '[s]leep 1234'")).output == ""
    assert (await interpreter.session("time-out").run_code("kept")).text == "1"


async def test_no_command_runs_longer_than_the_interpreters_limit() -> None:
    limits = Limits(execution_timeout=timedelta(seconds=2))
    async with CodeInterpreter(LocalSessionPool(preload=()), limits=limits) as interpreter:
        sandbox = CodeInterpreterSandbox(interpreter)
        for timeout in (None, 0, 3600):
            response = await sandbox.aexecute("sleep 60", timeout=timeout)
            assert response.exit_code == 124
            assert "1.8 seconds" in response.output


async def test_cancelling_ends_the_command(sandbox: CodeInterpreterSandbox) -> None:
    await sandbox.aexecute("true")
    with anyio.move_on_after(1):
        await sandbox.aexecute("sleep 4321")
    with anyio.fail_after(20):
        while (await sandbox.aexecute("pgrep -f '[s]leep 4321'")).output:
            await anyio.sleep(0.1)


async def test_a_background_process_goes_on(sandbox: CodeInterpreterSandbox) -> None:
    command = "(sleep 1; seq 1 100000; echo done > /tmp/done) & echo started"
    assert (await sandbox.aexecute(command)).output == "started\n"
    with anyio.fail_after(20):
        while (await sandbox.aexecute("cat /tmp/done")).output != "done\n":
            await anyio.sleep(0.1)


async def test_a_loss_is_reported_and_written_files_are_restored() -> None:
    pool = LocalSessionPool(preload=())
    async with CodeInterpreter(pool) as interpreter:
        sandbox = CodeInterpreterSandbox(interpreter)
        assert (await sandbox.awrite("/mnt/data/kept.txt", "kept")).error is None
        assert (await sandbox.awrite("/tmp/gone.txt", "gone")).error is None
        await event_loop.dispatch(pool.delete_session, sandbox.id)
        read = await sandbox.aread("/tmp/gone.txt")
        assert read.error is not None
        assert "the pool replaced the session" in read.error
        await event_loop.dispatch(pool.delete_session, sandbox.id)
        listed = await sandbox.als("/mnt/data")
        assert [entry["path"] for entry in listed.entries or []] == ["/mnt/data/kept.txt"]
        response = await sandbox.aexecute("cat kept.txt; ls -A /mnt/data")
        assert response.output.startswith("[the pool replaced the session")
        assert "uploaded again: kept.txt]" in response.output.partition("\n")[0]
        assert response.output.endswith("\nkeptkept.txt\n")
        assert (await sandbox.aexecute("cat kept.txt")).output == "kept"


async def test_a_loss_found_by_a_transfer_is_reported_too() -> None:
    pool = LocalSessionPool(preload=())
    async with CodeInterpreter(pool) as interpreter:
        sandbox = CodeInterpreterSandbox(interpreter)
        for given in (
            sandbox.aupload_files([("/tmp/a", b"a")]),
            sandbox.adownload_files(["/tmp/a"]),
        ):
            await sandbox.aexecute("true")
            await event_loop.dispatch(pool.delete_session, sandbox.id)
            await given
            response = await sandbox.aexecute("echo on")
            assert response.output.startswith("[the pool replaced the session")
            assert (await sandbox.aexecute("echo on")).output == "on\n"


async def test_the_same_works_in_sessions_that_answer_in_text_only() -> None:
    pytest.importorskip("mcp")
    from tests.integration._emulated import emulated

    large = bytes(range(256)) * 400
    async with emulated(LocalSessionPool(preload=())) as azure:
        async with CodeInterpreter(azure.client()) as interpreter:
            sandbox = CodeInterpreterSandbox(interpreter)
            response = await sandbox.aexecute("echo out; echo err >&2; seq 1 50000; exit 4")
            assert response.output == "out\nerr\n" + "".join(f"{n}\n" for n in range(1, 50_001))
            assert (response.exit_code, response.truncated) == (4, False)
            for path in ("/mnt/data/in/a.bin", "/tmp/in/a.bin"):
                (sent,) = await sandbox.aupload_files([(path, large)])
                (got,) = await sandbox.adownload_files([path])
                assert (sent.error, got.error, got.content) == (None, None, large)
            assert (await sandbox.aedit("/mnt/data/in/none", "a", "b")).error is not None
            assert (await sandbox.aexecute("sleep 60", timeout=1)).exit_code == 124


async def test_a_command_that_ends_the_session_is_reported(interpreter: CodeInterpreter) -> None:
    sandbox = CodeInterpreterSandbox(interpreter, session_key="death")
    response = await sandbox.aexecute("kill -9 $PPID; sleep 5")
    assert response.exit_code is None
    assert "the command did not end by itself" in response.output
    assert (await sandbox.aexecute("echo back")).output.endswith("back\n")


async def test_the_approver_is_asked_before_each_command() -> None:
    asked: list[ApprovalRequest] = []
    verdicts = iter(
        [
            Decision("deny", reason="no"),
            Decision("allow", code="echo edited"),
            None,
            Decision("allow"),
        ]
    )

    async def approve(request: ApprovalRequest) -> Decision:
        asked.append(request)
        if (verdict := next(verdicts)) is None:
            raise RuntimeError("nobody is there")
        return verdict

    async with CodeInterpreter(LocalSessionPool(preload=()), approve=approve) as interpreter:
        sandbox = CodeInterpreterSandbox(interpreter, session_key="asked")
        response = [await sandbox.aexecute("touch ran; echo asked") for _ in range(3)]
        left = await sandbox.aexecute("ls -A")
    assert asked[0] == ApprovalRequest("touch ran; echo asked", "asked")
    assert "did not approve it: no" in response[0].output
    assert response[1].output == "edited\n"
    assert "nobody could be asked" in response[2].output
    assert [one.exit_code for one in response] == [None, 0, None]
    assert left.output == ""


async def test_a_failing_pool_is_reported_and_nothing_is_raised() -> None:
    class Broken(FakeSessionPool):
        async def execute(self, *_: Any, **__: Any) -> Execution:
            raise PoolUnavailableError("no session pool today")

    async with CodeInterpreter(Broken()) as interpreter:
        sandbox = CodeInterpreterSandbox(interpreter)
        response = await sandbox.aexecute("true")
        (sent,) = await sandbox.aupload_files([("/mnt/data/a", b"")])
        (got,) = await sandbox.adownload_files(["/mnt/data/a"])
        written = await sandbox.awrite("/mnt/data/a", "")
        others = [
            await sandbox.als("/mnt/data"),
            await sandbox.aread("/mnt/data/a"),
            await sandbox.aglob("*", "/mnt/data"),
            await sandbox.agrep("a", "/mnt/data"),
            await asyncio.to_thread(sandbox.ls, "/mnt/data"),
        ]
    assert response.exit_code is None
    errors = [one.error for one in (sent, got, written, *others)]
    for text in (response.output, *errors):
        assert "no session pool today" in str(text)


@pytest.mark.parametrize(
    "forged", ["", "MARK{}\nx", "MARK{}MARKx", 'MARK{"found": 3}\n\nMARK', "MARK[\n\nMARK"]
)
async def test_an_invalid_answer_is_reported(forged: str) -> None:
    class Forging(FakeSessionPool):
        async def execute(self, session_id: str, code: str, **_: Any) -> Execution:
            marker = code.partition("(get_ipython(),'")[2][:32]
            return Execution(stdout=forged.replace("MARK", marker))

    async with CodeInterpreter(Forging()) as interpreter:
        sandbox = CodeInterpreterSandbox(interpreter)
        response = await sandbox.aexecute("true")
        assert (response.exit_code, response.output) == (
            None,
            "the session did not report the command's exit code",
        )
        (sent,) = await sandbox.aupload_files([("/mnt/data/a", b"")])
        assert sent.error == "the session did not answer"


async def test_a_signature_in_a_commands_output_is_redacted(
    sandbox: CodeInterpreterSandbox,
) -> None:
    signature = "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE%3D"
    url = (
        f"https://a.blob.core.windows.net/c/b?sv=2025-01-05&se=2026-01-01&sr=b&sp=r&sig={signature}"
    )
    response = await sandbox.aexecute(f"echo '{url}'")
    assert "a.blob.core.windows.net" in response.output
    assert signature not in response.output


async def test_each_thread_has_its_own_session(interpreter: CodeInterpreter) -> None:
    sandbox = CodeInterpreterSandbox(interpreter)

    def ids(_: object) -> str:
        return sandbox.id

    alice = {"configurable": {"thread_id": "alice"}}
    named = await RunnableLambda(ids).ainvoke(None, alice)
    assert named == interpreter.session("alice").id
    assert sandbox.id not in {named, CodeInterpreterSandbox(interpreter).id}
    with interpreter.use_session("bob") as session:
        assert await RunnableLambda(ids).ainvoke(None, alice) == session.id
    fixed = CodeInterpreterSandbox(interpreter, session_key="carol")
    assert fixed.id == interpreter.session("carol").id


class Steps(ScriptedModel):
    """Calls one tool after the other, then returns the result of the last one."""

    def __init__(self, *steps: tuple[str, dict[str, Any]]) -> None:
        super().__init__(Script(()))
        self._steps = steps

    def reply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.requests.append((path, body))
        asked = apis.read_chat(body)
        done = sum(message["role"] == "tool" for message in body["messages"])
        if done == len(self._steps):
            return apis.build_chat_reply(body["model"], asked.result or "")
        name, arguments = self._steps[done]
        if name not in {tool["function"]["name"] for tool in body["tools"]}:
            raise apis.BadRequestError(f"no tool {name}")
        return apis.build_chat_reply(body["model"], ScriptedCall(name, arguments))


async def test_an_agent_writes_a_file_runs_a_command_and_reads_the_result(
    interpreter: CodeInterpreter,
) -> None:
    program = "open('/mnt/data/out.txt', 'w').write(str(6 * 7))\nprint('written')\n"
    steps = (
        ("write_file", {"file_path": "/mnt/data/make.py", "content": program}),
        ("execute", {"command": "python make.py"}),
        ("read_file", {"file_path": "/mnt/data/out.txt"}),
    )
    with Steps(*steps) as model:
        async with DefaultAsyncHttpxClient() as http:
            chat = ChatOpenAI(
                model="scripted",
                base_url=model.url,
                api_key="none-needed",
                http_async_client=http,
            )
            agent = create_deep_agent(chat, backend=CodeInterpreterSandbox(interpreter))
            config: Any = {"configurable": {"thread_id": "agent"}}
            state = await agent.ainvoke({"messages": [("user", "Make it.")]}, config)
    response = [message.text for message in state["messages"] if message.type == "tool"]
    assert "written" in response[1]
    assert "exit code 0" in response[1]
    assert "42" in response[2]
    session = interpreter.session("agent")
    assert {file.name for file in await session.files.list()} == {"make.py", "out.txt"}
    history = json.loads(session.notebook())["cells"]
    assert any(cell["source"].startswith("# $ python make.py") for cell in history)
