"""`execute_code` called by popular MCP clients over HTTP and stdio, with real kernels."""

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest

from cci_plugins.common.packages import get_installed_packages
from cci_plugins.pools.base import Capabilities
from cci_plugins.tools import execute_code
from cci_plugins.tools.options import build_description

from ._server import running_server
from .test_mcp_clients import (
    HEADERS,
    PICTURE,
    agent_framework_fits,
    agent_framework_tool,
    call_langchain,
    is_error,
    major,
    official_client,
    text_content,
    text_of,
)

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = [
    pytest.mark.anyio,
    # from the clients' own dependencies
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PLATFORM = ["launchShell", "runPythonCodeInRemoteEnvironment", "runShellCommandInRemoteEnvironment"]
FILES = "open('a b.csv', 'w').write('x,y\\n')\nopen('z.bin', 'wb').write(bytes(range(256)))\n'done'"
HERE = Path(__file__).parent
SERVER = (
    ("-m", "cci_plugins", "mcp", "--file-links", "--all-tools")
    if find_spec("typer")
    else (str(HERE / "_stdio_server.py"),)
)
INITIALIZE = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18",'
    b'"capabilities":{},"clientInfo":{"name":"t","version":"0"}}}\n'
    b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
)


def environment() -> dict[str, str]:
    skipped = ("AZURE_", "MCP_", "CCI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(skipped)}
    return kept | {"CCI_PRELOAD": "none", "CCI_READY_SESSIONS": "0"}


@pytest.fixture(scope="module")
def url():
    from cci_plugins.pools.local.pool import LocalSessionPool

    with running_server(LocalSessionPool, execute_code=True, file_links=True) as url:
        yield url


@pytest.fixture(scope="module")
def plain_url():
    """Run a server with the defaults of `cci serve`."""
    from cci_plugins.pools.local.pool import LocalSessionPool

    with running_server(LocalSessionPool, execute_code=True) as url:
        yield url


@asynccontextmanager
async def stdio_client_of_the_sdk(folder: Path):
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client

    server = StdioServerParameters(
        command=sys.executable, args=[*SERVER], env=environment(), cwd=folder
    )
    if major("mcp") >= 2:
        from mcp import Client

        async with Client(stdio_client(server)) as client:
            yield client
        return
    from mcp import ClientSession

    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


@asynccontextmanager
async def client_over(transport: str, url: str, folder: Path):
    if transport == "http":
        async with official_client(url) as client:
            yield client
    else:
        async with stdio_client_of_the_sdk(folder) as client:
            yield client


@pytest.fixture(scope="module", params=["http", "stdio"])
async def client(request, url, tmp_path_factory):
    """Connect a client of the SDK. All tests of a transport use its one session."""
    folder = tmp_path_factory.mktemp("client")
    async with client_over(request.param, url, folder) as client:
        yield client


@pytest.fixture
def client_with_session(request, client):
    """Skip over HTTP with mcp 2.

    It speaks the stateless revision there, where requests name their environment instead.
    """
    if request.node.callspec.params["client"] == "http" and major("mcp") >= 2:
        pytest.skip("test_mcp_stateless has it")
    return client


def by_transport(test):
    """Run a framework's client over both transports; over stdio, all use the SDK's client."""
    return pytest.mark.quick("http")(pytest.mark.parametrize("transport", ["http", "stdio"])(test))


ENVIRONMENT = "environmentId: "


def take_environment(blocks: list) -> dict[str, str]:
    """Remove the block that names a new environment, and return what a model passes next."""
    text = getattr(blocks[-1], "text", None) or ""
    return (
        {"environmentId": blocks.pop().text.removeprefix(ENVIRONMENT)}
        if (text.startswith(ENVIRONMENT))
        else {}
    )


async def run(client, code: str, environments: dict[int, dict[str, str]] = {}):  # noqa: B006
    """Run code as a model does, which passes the environment that the first answer named."""
    known = environments.get(id(client), {})
    result = await client.call_tool(execute_code.NAME, {"code": code, **known})
    environments[id(client)] = take_environment(result.content) or known
    return result


async def test_the_tool_is_the_same_as_in_every_adapter(client_with_session):
    with anyio.fail_after(60):
        listed = (await client_with_session.list_tools()).tools
    assert [tool.name for tool in listed] == [execute_code.NAME, *PLATFORM]
    assert listed[0].description == build_description(
        execute_code.DESCRIPTION,
        execute_code.DEFAULT_OPTIONS,
        get_installed_packages(),
        capabilities=Capabilities(name="local", egress=False),
    )
    schema = getattr(listed[0], "input_schema", None) or listed[0].inputSchema
    assert schema == execute_code.PARAMETERS


async def test_state_is_kept_and_a_traceback_is_an_error(client):
    with anyio.fail_after(60):
        await run(client, "x = 41")
        result = await run(client, "```python\nprint('hi')\nx + 1\n```")
        assert [block.text for block in result.content] == ["hi\n42"]
        assert not is_error(result)
        result = await run(client, "1/0")
        assert is_error(result)
        assert "ZeroDivisionError: division by zero" in result.content[0].text


@pytest.mark.quick("http")
async def test_text_stays_within_the_models_budget(client):
    with anyio.fail_after(60):
        result = await run(client, "print('word ' * 1_000_000)")
    assert [block.type for block in result.content] == ["text"]
    assert len(result.content[0].text) <= 8000
    assert "characters left out" in result.content[0].text


async def test_images_come_as_images(client):
    with anyio.fail_after(60):
        result = await run(client, PICTURE)
    assert [block.type for block in result.content] == ["text", "image"]
    assert result.content[1].data.startswith("iVBOR")


async def test_files_are_resources_and_answers_link_them(client_with_session):
    client = client_with_session
    with anyio.fail_after(60):
        await run(client, "import os\nfor name in os.listdir(): os.remove(name)")
        assert (await client.list_resources()).resources == []
        result = await run(client, FILES)
        links = [block for block in result.content if block.type == "resource_link"]
        assert [str(link.uri) for link in links] == [
            "sandbox:/mnt/data/a%20b.csv",
            "sandbox:/mnt/data/z.bin",
        ]
        resources = (await client.list_resources()).resources
        assert [(r.name, r.size) for r in resources] == [("a b.csv", 4), ("z.bin", 256)]
        text, blob = [(await client.read_resource(r.uri)).contents[0] for r in resources]
        assert text.text == "x,y\n"
        assert blob.blob.startswith("AAECAwQF")
        templates = await client.list_resource_templates()
        assert "sandbox:/mnt/data/" in str(templates)


@pytest.mark.parametrize(
    "uri",
    ["sandbox:/mnt/data/none.csv", "sandbox:/mnt/data/%2e%2e%2fetc%2fpasswd", "file:///etc/passwd"],
)
async def test_a_resource_that_does_not_exist_is_an_error(uri, client_with_session):
    client = client_with_session
    with anyio.fail_after(60):
        await run(client, "open('here.txt', 'w').write('1')")
        with pytest.raises(Exception, match=r"no file|resources begin|not the name"):
            await client.read_resource(uri)
        assert (await client.list_resources()).resources


async def test_a_dead_session_is_reported_and_replaced_by_an_empty_one(client):
    with anyio.fail_after(90):
        await run(client, "x = 1")
        died = await run(client, "import os\nos._exit(1)")
        assert is_error(died)
        assert "gone" in died.content[0].text
        result = await run(client, "'x' in globals()")
        assert result.content[0].text.endswith("False")


@by_transport
async def test_two_clients_at_once_never_share_state(transport, url, tmp_path):
    seen: dict[int, list[str]] = {}

    async def converse(number: int) -> None:
        async with client_over(transport, url, tmp_path) as client:
            await run(client, f"x = {number}\nopen('mine.txt', 'w').write('{number}')")
            texts = []
            for _ in range(3):
                texts.append((await run(client, "x")).content[0].text)
                read = await run(client, "print(open('mine.txt').read())")
                texts.append(read.content[0].text)
            seen[number] = texts

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            for number in (1, 2):
                tasks.start_soon(converse, number)
    assert seen == {1: ["1"] * 6, 2: ["2"] * 6}


@pytest.mark.quick("http")
async def test_the_platforms_tools_are_listed_with_it(client):
    with anyio.fail_after(60):
        where = {"environmentId": "beside-the-session"}
        await run(client, "x = 1")
        code = {"pythonCode": "'x' in globals()"}
        result = await client.call_tool(PLATFORM[1], {**where, **code})
        assert '"executionResult": false' in result.content[0].text


async def test_langchain_adapters_keep_a_session_and_images(plain_url):
    adapters = pytest.importorskip("langchain_mcp_adapters.client")
    load = import_module("langchain_mcp_adapters.tools").load_mcp_tools
    client = adapters.MultiServerMCPClient(
        {"ci": {"transport": "streamable_http", "url": plain_url, "headers": HEADERS}}
    )
    with anyio.fail_after(60):
        async with client.session("ci") as session:
            tools = {tool.name: tool for tool in await load(session)}
            execute = tools[execute_code.NAME]
            await call_langchain(execute, {"code": "x = 41"})
            message = await call_langchain(execute, {"code": "x + 1"})
            assert (text_of(message.content), message.status) == ("42", "success")
            message = await call_langchain(execute, {"code": PICTURE + "\n" + FILES})
            assert [block["type"] for block in message.content] == ["text", "image"]


@pytest.mark.full  # test_mcp_clients has its plugin in `make test`
@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_semantic_kernels_plugins_keep_a_session(transport, plain_url, tmp_path):
    mcp_plugins = pytest.importorskip("semantic_kernel.connectors.mcp")
    if transport == "http":
        plugin = mcp_plugins.MCPStreamableHttpPlugin(name="ci", url=plain_url, headers=HEADERS)
    else:
        plugin = mcp_plugins.MCPStdioPlugin(
            name="ci", command=sys.executable, args=[*SERVER], env=environment(), cwd=str(tmp_path)
        )
    with anyio.fail_after(60):
        async with plugin:
            await plugin.call_tool(execute_code.NAME, code="x = 41")
            contents = await plugin.call_tool(execute_code.NAME, code="x + 1")
            assert [content.text for content in contents] == ["42"]
            contents = await plugin.call_tool(execute_code.NAME, code=PICTURE)
            assert contents[1].mime_type == "image/png"


@by_transport
async def test_agent_frameworks_tools_keep_a_session_and_images(transport, plain_url, tmp_path):
    pytest.importorskip("agent_framework")
    if not agent_framework_fits():
        pytest.skip("this Agent Framework wants the other major of mcp")
    framework = import_module("agent_framework")
    if transport == "http":
        tool = agent_framework_tool(framework.MCPStreamableHTTPTool, plain_url)
    else:
        tool = framework.MCPStdioTool(
            "ci", sys.executable, args=[*SERVER], env=environment(), cwd=str(tmp_path)
        )
    with anyio.fail_after(60):
        async with tool as client:
            first = await client.call_tool(execute_code.NAME, code="x = 41")
            where = take_environment(first) if isinstance(first, list) else {}
            second = await client.call_tool(execute_code.NAME, code="x + 1", **where)
            assert text_content(second) == "42"
            result = await client.call_tool(execute_code.NAME, code=PICTURE, **where)
            assert any((c.uri or "").startswith("data:image/png") for c in result)


@by_transport
async def test_openai_agents_clients_keep_a_session_and_images(transport, plain_url, tmp_path):
    mcp_clients = pytest.importorskip("agents.mcp")
    if transport == "http":
        client = mcp_clients.MCPServerStreamableHttp({"url": plain_url, "headers": HEADERS})
    else:
        command = {"command": sys.executable, "args": [*SERVER], "env": environment()}
        client = mcp_clients.MCPServerStdio(
            {**command, "cwd": str(tmp_path)}, client_session_timeout_seconds=30
        )
    with anyio.fail_after(60):
        async with client:
            await run(client, "x = 41")
            answer = await run(client, "x + 1")
            assert [block.text for block in answer.content] == ["42"]
            answer = await run(client, PICTURE)
            assert answer.content[1].model_dump(by_alias=True)["mimeType"] == "image/png"


def start_server(folder: Path, command: list[str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command or [sys.executable, *SERVER],
        cwd=folder,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def call(number: int, code: str) -> bytes:
    return (
        b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"execute_code",'
        b'"arguments":{"code":"%s"}}}\n' % (number, code.encode())
    )


@pytest.mark.full  # the next test ends one by a signal
@pytest.mark.parametrize("ending", ["stdin", "signal", "stdin while code runs", "both"])
def test_the_server_and_its_kernels_end_with_the_client(ending, tmp_path):
    psutil = pytest.importorskip("psutil")
    if ending == "signal" and SERVER[0] != "-m":
        pytest.skip("signals are the command's")
    with start_server(tmp_path) as process:
        try:
            process.stdin.write(INITIALIZE + call(2, "import os; os.getpid()"))
            process.stdin.flush()
            assert b'"id":1' in process.stdout.readline()
            assert b'"id":2' in process.stdout.readline()
            children = psutil.Process(process.pid).children(recursive=True)
            assert children
            if ending == "signal":
                process.send_signal(signal.SIGTERM)
            else:
                if ending == "both":
                    process.stdout.close()
                    process.stdin.write(call(3, "'nobody reads this'"))
                elif ending != "stdin":
                    process.stdin.write(call(3, "import time; time.sleep(600)"))
                process.stdin.flush()
                if ending != "both":
                    process.stdin.close()
            err = process.stderr.read().decode()
            assert process.wait(timeout=30) == 0, err
            assert "Traceback" not in err
            assert psutil.wait_procs(children, timeout=10)[1] == []
        finally:
            process.kill()


NOISY = """
import os, runpy, sys
from cci_plugins.pools.local.pool import LocalSessionPool as Pool
execute = Pool.execute
def noisy(*arguments, **options):
    print("noise of a library", flush=True)
    os.system("echo noise of a child")
    return execute(*arguments, **options)
Pool.execute = noisy
sys.argv = ["cci", "mcp"]
run = runpy.run_module if WHAT == "cci_plugins" else runpy.run_path
run(WHAT, run_name="__main__")
"""


def test_only_the_protocol_is_on_standard_output(tmp_path):
    """Output of a library or a child process in the server does not break the client."""
    psutil = pytest.importorskip("psutil")
    what = "cci_plugins" if SERVER[0] == "-m" else SERVER[0]
    command = [sys.executable, "-c", NOISY.replace("WHAT", repr(what))]
    with start_server(tmp_path, command) as process:
        try:
            process.stdin.write(INITIALIZE + call(2, "print('out')"))
            process.stdin.flush()
            lines = [process.stdout.readline() for _ in range(2)]
            children = psutil.Process(process.pid).children(recursive=True)
            if SERVER[0] == "-m":
                process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
            assert psutil.wait_procs(children, timeout=10)[1] == []
        finally:
            process.kill()
    assert all(line.startswith(b'{"jsonrpc"') for line in lines), (lines, err)
    assert (process.returncode, children == []) == (0, False)
    assert out == b""
    assert b"noise of a library" in err
    assert b"noise of a child" in err
