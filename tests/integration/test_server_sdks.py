"""The frameworks' own clients of Azure session pools, unmodified, with a running server."""

import io
import json
from urllib.parse import quote

import anyio
import httpx
import pytest

from ._server import KEY, running_server

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the clients' own
]

PICTURE = (
    "from base64 import b64decode\nfrom IPython.display import Image\n"
    "Image(b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='))"
)


@pytest.fixture(scope="module")
def endpoint():
    from cci_plugins.pools.local.pool import LocalSessionPool

    with running_server(LocalSessionPool) as url:
        yield url.removesuffix("mcp")


# the tool never closes the local file that it opens
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_langchains_tool_executes_uploads_lists_and_downloads(endpoint, tmp_path):
    sessions = pytest.importorskip("langchain_azure_dynamic_sessions")
    tool = sessions.SessionsPythonREPLTool(
        pool_management_endpoint=endpoint, access_token_provider=lambda: KEY
    )
    assert json.loads(tool.invoke("6 * 7")) == {"result": 42, "stdout": "", "stderr": ""}
    tool.invoke("x = 41")
    assert tool.execute("print(x + 1)")["stdout"] == "42\n"
    failed = tool.execute("1/0")
    assert failed["status"] == "Failure"
    assert "ZeroDivisionError" in failed["stderr"]
    assert tool.execute(PICTURE)["result"]["base64_data"].startswith("iVBOR")

    local = tmp_path / "local.csv"
    local.write_text("a,b\n1,2\n")
    assert tool.upload_file(local_file_path=str(local)).full_path == "/mnt/data/local.csv"
    answer = tool.upload_file(data=io.BytesIO(b"12345"), remote_file_path="my data.txt")
    assert (answer.filename, answer.size_in_bytes) == ("my data.txt", 5)
    assert tool.execute("open('/mnt/data/my data.txt').read()")["result"] == "12345"
    assert {file.filename for file in tool.list_files()} == {"local.csv", "my data.txt"}
    assert tool.download_file(remote_file_path="my data.txt").read() == b"12345"


@pytest.mark.full
async def test_semantic_kernels_tool_executes_uploads_lists_and_downloads(endpoint, tmp_path):
    sessions = pytest.importorskip("semantic_kernel.core_plugins.sessions_python_tool")
    plugins = pytest.importorskip(
        "semantic_kernel.core_plugins.sessions_python_tool.sessions_python_plugin"
    )
    assert sessions is not None
    local = tmp_path / "local.csv"
    local.write_text("a,b\n1,2\n")
    async with httpx.AsyncClient(transport=PlainTransport(), timeout=30) as http:
        tool = plugins.SessionsPythonTool(
            pool_management_endpoint=endpoint.replace("http:", "https:"),
            auth_callback=lambda: KEY,
            http_client=http,
            enable_dangerous_file_uploads=True,
            allowed_upload_directories={str(tmp_path)},
        )
        with anyio.fail_after(60):
            assert "Result:\n42\n" in await tool.execute_code("6 * 7")
            await tool.execute_code("x = 41")
            assert "Stdout:\n42\n" in await tool.execute_code("print(x + 1)")
            assert "ZeroDivisionError" in await tool.execute_code("1/0")
            answer = await tool.upload_file(local_file_path=str(local))
            assert (answer.full_path, answer.size_in_bytes) == ("/mnt/data/local.csv", 8)
            assert [file.filename for file in await tool.list_files()] == ["local.csv"]
            data = await tool.download_file(remote_file_name="local.csv")
            assert data.read() == b"a,b\n1,2\n"


class PlainTransport(httpx.AsyncHTTPTransport):
    """Send https as http. The tool accepts https only, and loopback has no certificate."""

    async def handle_async_request(self, request):
        request.url = request.url.copy_with(scheme="http")
        return await super().handle_async_request(request)


async def test_autogens_requests_by_their_shape(endpoint):
    """AutoGen's ACADynamicSessionsCodeExecutor is not installed here. These are its requests."""
    params = {"api-version": "2024-02-02-preview", "identifier": "autogen-1"}
    headers = {"authorization": f"Bearer {KEY}"}
    code = "import os\nos.chdir('/mnt/data')\nprint('ok')"
    properties = {"codeInputType": "inline", "executionType": "synchronous", "code": code}
    async with httpx.AsyncClient(headers=headers, params=params, timeout=60) as http:
        ran = await http.post(f"{endpoint}code/execute", json={"properties": properties})
        answer = ran.json()["properties"]
        assert (answer["status"], answer["stdout"], answer["stderr"]) == ("Success", "ok\n", "")
        form = {"file": ("a b.txt", b"abc", "application/octet-stream")}
        assert (await http.post(f"{endpoint}files/upload", files=form)).is_success
        names = [
            v["properties"]["filename"]
            for v in (await http.get(f"{endpoint}files")).json()["value"]
        ]
        assert names == ["a b.txt"]
        got = await http.get(f"{endpoint}files/content/{quote('a b.txt')}")
        assert got.content == b"abc"
