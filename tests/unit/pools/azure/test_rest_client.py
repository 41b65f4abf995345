"""The REST client against the answers that pools are reported to send, without a socket."""

from datetime import timedelta

import httpx
import pytest

from cci_plugins.errors import ExecutionTimeoutError, ProtocolError, SessionFileNotFoundError
from cci_plugins.pools.azure import rest_client
from cci_plugins.pools.azure.rest_client import RestClient, parse_file_info
from cci_plugins.pools.azure.retry import NoRouteError

pytestmark = pytest.mark.anyio


def rest(*responses: httpx.Response) -> RestClient:
    answers = list(responses)
    transport = httpx.MockTransport(lambda _: answers.pop(0))
    client = httpx.AsyncClient(transport=transport)
    return RestClient("https://x.example/p", http=client)


async def test_a_list_of_files_continues_on_pages_of_the_same_server_only():
    one = {"name": "b", "type": "file", "sizeInBytes": 1, "directory": "/mnt/data/sub"}
    two = {"properties": {"filename": "a", "size": 2}}
    folder = {"name": "sub", "type": "directory"}
    first = httpx.Response(200, json={"value": [one, folder], "nextLink": "https://x.example/p/2"})
    pages = rest(first, httpx.Response(200, json={"value": [two]}))
    assert [file.name for file in await pages.list_files("s")] == ["a", "sub/b"]
    for link in ("https://evil.example/", "http://[", "https://xn--zzzz.example/"):
        evil = httpx.Response(200, json={"value": [], "nextLink": link})
        with pytest.raises(ProtocolError):
            await rest(evil).list_files("s")


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"value": 7}', b'{"value": [{"name": "a"}]}', b'{"value": [7]}']
)
async def test_a_malformed_list_is_a_protocol_error(body):
    with pytest.raises(ProtocolError):
        await rest(httpx.Response(200, content=body)).list_files("s")


async def test_a_missing_file_is_an_error_but_a_missing_session_is_not():
    gone = {"error": {"code": "NoSessionFoundError", "message": "no"}}
    await rest(httpx.Response(404, json=gone)).delete_session("s")
    with pytest.raises(NoRouteError):
        await rest(httpx.Response(404)).delete_session("s")
    with pytest.raises(SessionFileNotFoundError, match=r"a\.txt"):
        await rest(httpx.Response(404)).delete_file("s", "a.txt")


@pytest.mark.parametrize("folder", [None, "", ".", "/", "/mnt/data", "/mnt/data/"])
def test_the_root_folder_is_accepted_in_every_form(folder):
    assert parse_file_info({"name": "a", "sizeInBytes": 1, "directory": folder}).name == "a"


async def test_a_run_that_the_pool_reports_as_running_is_asked_for_until_it_ends(monkeypatch):
    monkeypatch.setattr(rest_client, "_POLL_SECONDS", 0)
    running = {"id": "run-1", "identifier": "s", "status": "Running"}
    done = {"id": "run-1", "status": "Succeeded", "result": {"stdout": "hi\n"}}
    client = rest(
        httpx.Response(202, json=running),
        httpx.Response(200, json=running),
        httpx.Response(502),
        httpx.Response(200, json=done),
    )
    execution = await client.execute("s", "code", timeout=timedelta(seconds=9))
    assert execution.stdout == "hi\n"


async def test_a_run_that_never_ends_is_a_timeout_and_one_without_an_id_may_have_run():
    running = {"id": "run-1", "status": "NotStarted"}
    client = rest(httpx.Response(202, json=running), *[httpx.Response(200, json=running)] * 9)
    with pytest.raises(ExecutionTimeoutError, match="may have run"):
        await client.execute("s", "code", timeout=timedelta(seconds=0.1))
    with pytest.raises(ProtocolError, match="may have run"):
        await rest(httpx.Response(202, json={"status": "Running"})).execute(
            "s", "code", timeout=timedelta(seconds=9)
        )
