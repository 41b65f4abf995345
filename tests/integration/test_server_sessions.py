"""MCP sessions over raw HTTP: which clients have one, and what they can do with it."""

import json

import anyio
import httpx
import pytest

from cci_plugins.common.limits import Limits
from cci_plugins.errors import PoolExhaustedError
from cci_plugins.models import Execution, FileInfo, Result
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.anyio

SESSION = "mcp-session-id"
HELLO = Execution(stdout="hi\n", results=(Result({"text/plain": "42"}, is_main=True),))


def message(method: str, **params) -> dict:
    return {"jsonrpc": "2.0", "id": "1", "method": method, "params": params}


class Client:
    """Posts JSON-RPC, in an MCP session after `begin`."""

    def __init__(self, url: str):
        self.http = httpx.AsyncClient(base_url=url, headers={"x-ms-apikey": KEY}, timeout=30)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.http.aclose()

    async def begin(self) -> str:
        response = await self.http.post("", json=message("initialize"))
        self.http.headers[SESSION] = response.headers[SESSION]
        return response.headers[SESSION]

    async def post(self, method: str, **params) -> dict:
        response = await self.http.post("", json=message(method, **params))
        assert response.status_code == 200, response.text
        return response.json()

    async def run(self, code: str = "x") -> dict:
        answer = await self.post("tools/call", name="execute_code", arguments={"code": code})
        return answer["result"]

    async def tools(self) -> list[str]:
        return [tool["name"] for tool in (await self.post("tools/list"))["result"]["tools"]]


def sessions_of(pool: FakeSessionPool) -> set[str]:
    return {session for session, _ in pool.calls}


class EndingPool(FakeSessionPool):
    """Records which sessions were ended."""

    def __init__(self, *executions: Execution):
        super().__init__(*executions)
        self.ended: set[str] = set()

    async def delete_session(self, session_id):
        self.ended.add(session_id)


async def test_the_tool_is_listed_only_to_a_client_that_keeps_a_session():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(), execute_code=True) as url, Client(url) as client:
            assert "execute_code" not in await client.tools()
            await client.begin()
            assert (await client.tools())[0] == "execute_code"


async def test_without_a_session_the_tool_returns_an_error_with_the_next_step():
    pool = FakeSessionPool(HELLO)
    with anyio.fail_after(30):
        async with serving(pool, execute_code=True) as url, Client(url) as client:
            result = await client.run()
            assert (await client.post("resources/list"))["result"]["resources"] == []
    assert result["isError"]
    assert "launchShell" in result["content"][0]["text"]
    assert "Mcp-Session-Id" in result["content"][0]["text"]
    assert sessions_of(pool) == set()


async def test_by_default_a_server_is_like_a_session_pool():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, Client(url) as client:
            response = await client.http.post("", json=message("initialize"))
            assert SESSION not in response.headers
            assert "resources" not in response.json()["result"]["capabilities"]
            client.http.headers[SESSION] = "anything"  # ignored
            assert len(await client.tools()) == 3
            answer = await client.post("tools/call", name="execute_code", arguments={"code": "1"})
            assert answer["error"]["code"] == -32602


async def test_each_mcp_session_has_its_own_session_and_cannot_choose_one():
    pool = FakeSessionPool(HELLO)
    with anyio.fail_after(30):
        async with (
            serving(pool, execute_code=True) as url,
            Client(url) as one,
            Client(url) as two,
            Client(url) as third,
        ):
            first, second = await one.begin(), await two.begin()
            assert first != second
            await one.run()
            await two.run()
            await one.run()
            assert len(sessions_of(pool)) == 2
            assert not {first, second} & sessions_of(pool)
            for invented in ("x", "0" * 44, first[:-1], next(iter(sessions_of(pool)))):
                third.http.headers[SESSION] = invented
                refused = await third.http.post("", json=message("tools/list"))
                assert refused.status_code == 404
    assert len(sessions_of(pool)) == 2


async def test_ending_a_session_ends_what_runs_in_it():
    pool = EndingPool(HELLO)
    with anyio.fail_after(30):
        async with serving(pool, execute_code=True) as url, Client(url) as client:
            assert (await client.http.request("DELETE", "")).status_code == 405
            await client.begin()
            await client.run()
            assert (await client.http.request("DELETE", "")).status_code == 204
            assert (await client.http.post("", json=message("ping"))).status_code == 404
            assert (await client.http.request("DELETE", "")).status_code == 404
    assert pool.ended == sessions_of(pool) != set()


async def test_an_evicted_session_is_reported():
    pool = FakeSessionPool(HELLO)
    limits = Limits(live_sessions=1)
    with anyio.fail_after(30):
        async with (
            serving(pool, execute_code=True, limits=limits) as url,
            Client(url) as one,
            Client(url) as two,
        ):
            await one.begin()
            await two.begin()
            await one.run()
            await two.run()
            text = (await one.run())["content"][0]["text"]
    assert "variables and files of earlier calls are gone" in text


async def test_a_failure_of_the_pool_is_an_error_text_for_the_model():
    class FullPool(FakeSessionPool):
        async def execute(self, session_id, code, *, timeout, on_output=None, instance=None):
            raise PoolExhaustedError("no session is free")

    with anyio.fail_after(30):
        async with serving(FullPool(), execute_code=True) as url, Client(url) as client:
            await client.begin()
            result = await client.run()
            bad = await client.post("tools/call", name="execute_code", arguments={"code": 1})
    assert result["isError"]
    assert "no session is free" in result["content"][0]["text"]
    assert bad["result"]["isError"]


async def test_a_fault_of_the_server_is_an_error_text_without_internals():
    class BrokenPool(FakeSessionPool):
        async def execute(self, session_id, code, *, timeout, on_output=None, instance=None):
            raise ValueError("internal-detail")

    with anyio.fail_after(30):
        async with serving(BrokenPool(), execute_code=True) as url, Client(url) as client:
            await client.begin()
            result = await client.run()
    assert result["isError"]
    assert "internal-detail" not in json.dumps(result)


async def test_discovery_without_a_handshake_is_refused_where_sessions_are_kept():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(), execute_code=True) as url, Client(url) as client:
            answer = await client.post("server/discover")
    assert answer["error"]["code"] == -32601


async def test_a_large_file_is_not_readable_as_a_resource():
    class LargeFilePool(FakeSessionPool):
        async def list_files(self, session_id):
            return [FileInfo("large.bin", 9 * 1024**2)]

    with anyio.fail_after(30):
        async with serving(LargeFilePool(HELLO), execute_code=True) as url, Client(url) as client:
            await client.begin()
            await client.run()
            answer = await client.post("resources/read", uri="sandbox:/mnt/data/large.bin")
    assert "9,437,184 bytes" in answer["error"]["message"]


async def test_a_file_that_grew_after_it_was_listed_is_bounded_too():
    class GrowingFilePool(FakeSessionPool):
        async def list_files(self, session_id):
            return [FileInfo("grows.bin", 1)]

        async def download(self, session_id, name):
            for _ in range(20):
                yield bytes(1024**2)

    with anyio.fail_after(30):
        async with serving(GrowingFilePool(HELLO), execute_code=True) as url, Client(url) as client:
            await client.begin()
            await client.run()
            answer = await client.post("resources/read", uri="sandbox:/mnt/data/grows.bin")
    assert "at most 8,388,608" in answer["error"]["message"]


async def test_a_text_file_that_is_not_utf8_comes_as_bytes():
    pool = FakeSessionPool(HELLO)
    with anyio.fail_after(30):
        async with serving(pool, execute_code=True) as url, Client(url) as client:
            await client.begin()
            await client.run()

            async def content():
                yield b"\xff\xfe"

            await pool.upload(next(iter(sessions_of(pool))), "a.txt", content())
            answer = await client.post("resources/read", uri="sandbox:/mnt/data/a.txt")
    assert answer["result"]["contents"][0] == {
        "uri": "sandbox:/mnt/data/a.txt",
        "mimeType": "text/plain",
        "blob": "//4=",
    }


async def test_the_key_and_the_sessions_id_appear_in_no_answer_and_no_log(caplog):
    caplog.set_level("DEBUG")
    pool = FakeSessionPool(HELLO)
    asked = (
        message("tools/list"),
        message("resources/list"),
        message("tools/call", name="execute_code", arguments={"code": "1"}),
        message("resources/read", uri="sandbox:/mnt/data/none"),
    )
    with anyio.fail_after(30):
        async with serving(pool, execute_code=True) as url, Client(url) as client:
            mcp_session = await client.begin()
            answers = [await client.http.post("", json=one) for one in asked]
    texts = [answer.text + str(answer.headers) for answer in answers]
    texts += [record.getMessage() for record in caplog.records if is_of_the_server(record.name)]
    for secret in (KEY, mcp_session, *sessions_of(pool)):
        assert not any(secret in text for text in texts)
    assert sessions_of(pool)


def is_of_the_server(logger: str) -> bool:
    """Return whether a logger is not one of the test's own client, which logs what it sends."""
    return not logger.startswith(("httpx", "httpcore"))
