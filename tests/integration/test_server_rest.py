"""The REST data plane in both its forms, over raw HTTP."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta

import anyio
import httpx
import pytest

from cci_plugins.common.limits import Limits
from cci_plugins.errors import PoolExhaustedError
from cci_plugins.models import ErrorInfo, Execution, Result, SessionInfo
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, serving

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("mcp")

pytestmark = pytest.mark.anyio

NEW, OLD = "2025-10-02-preview", "2024-02-02-preview"
HELLO = Execution(
    stdout="63\n",
    results=(Result({"text/plain": "[1, 'a']"}, is_main=True),),
    duration=timedelta(milliseconds=4),
)
RAISED = Execution(
    error=ErrorInfo("ValueError", "no", "Traceback ...\nValueError: no"),
    status="failed",
)
IMAGE = Execution(results=(Result({"image/png": "iVBORw0KGgo="}),))


class Rest(httpx.AsyncClient):
    """HTTP client for one session of a server that a test started."""

    def __init__(self, url: str, version: str, **headers: str):
        super().__init__(
            base_url=url.removesuffix("/mcp"),
            headers={"authorization": f"Bearer {KEY}"} | headers,
            params={"identifier": "session-1", "api-version": version},
            timeout=30,
        )


async def ask(pool, method: str, path: str, *, version: str = NEW, limits=None, **request):
    with anyio.fail_after(30):
        async with serving(pool, limits=limits) as url, Rest(url, version) as http:
            return await http.request(method, path, **request)


async def test_the_newer_form_of_a_run():
    response = await ask(FakeSessionPool(HELLO), "POST", "/executions", json={"code": "x"})
    assert response.status_code == 200
    assert response.json() == {
        "id": response.headers["operation-id"],
        "identifier": "session-1",
        "executionType": "Synchronous",
        "status": "Succeeded",
        "result": {
            "stdout": "63\n",
            "stderr": "",
            "executionResult": [1, "a"],
            "executionTimeInMilliseconds": 4,
        },
    }


@pytest.mark.parametrize("path", ["/code/execute", "/python/execute", "/execute"])
async def test_the_older_form_of_a_run(path):
    body = {"properties": {"codeInputType": "inline", "executionType": "synchronous", "code": "x"}}
    response = await ask(FakeSessionPool(HELLO), "POST", path, version=OLD, json=body)
    assert response.json()["properties"] == {
        "$id": "1",
        "status": "Success",
        "result": [1, "a"],
        "stdout": "63\n",
        "stderr": "",
        "executionTimeInMilliseconds": 4,
    }


async def test_an_image_is_the_result_in_the_data_planes_form():
    response = await ask(
        FakeSessionPool(IMAGE), "POST", "/code/execute", version=OLD, json={"code": "x"}
    )
    image = {"type": "image", "format": "png", "base64_data": "iVBORw0KGgo="}
    assert response.json()["properties"]["result"] == image


async def test_a_traceback_is_a_failed_run_but_not_a_failed_request():
    response = await ask(FakeSessionPool(RAISED), "POST", "/executions", json={"code": "x"})
    answer = response.json()
    assert (response.status_code, answer["status"]) == (200, "Failed")
    assert answer["error"] == {"error": {"code": "ValueError", "message": "no"}}
    assert answer["result"]["stderr"].endswith("ValueError: no")


async def test_code_may_come_in_base64_and_keys_in_any_case():
    pool = FakeSessionPool()
    body = {"CodeInputType": "InlineBase64", "Code": b64encode("é = 1".encode()).decode()}
    assert (await ask(pool, "POST", "/executions", json=body)).status_code == 200
    assert pool.calls == [("session-1", "é = 1")]


async def test_output_is_cut_at_the_requested_length():
    pool = FakeSessionPool(Execution(stdout="x" * 10_000))
    response = await ask(
        pool, "POST", "/executions", json={"code": "x", "outputStreamsMaxLength": 500}
    )
    assert len(response.json()["result"]["stdout"]) == 500
    pool = FakeSessionPool(Execution(stdout="x" * 10_000))
    response = await ask(pool, "POST", "/executions", json={"code": "x"})
    assert len(response.json()["result"]["stdout"]) == 4096


async def test_an_asynchronous_run_is_polled_until_its_end():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(HELLO)) as url, Rest(url, NEW) as http:
            body = {"code": "x", "executionType": "Asynchronous"}
            response = await http.post("/executions", json=body, headers={"operation-id": "run-7"})
            assert (response.status_code, response.json()["status"]) == (202, "NotStarted")
            assert "/executions/run-7?" in response.headers["operation-location"]
            while (answer := (await http.get("/executions/run-7")).json())["status"] != "Succeeded":
                assert answer["status"] in {"NotStarted", "Running"}
            assert answer["result"]["stdout"] == "63\n"
            assert (await http.get("/executions/run-8")).status_code == 404
            other = {"identifier": "session-2"}
            assert (await http.get("/executions/run-7", params=other)).status_code == 404


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"api-version": ""}, "InvalidApiVersion"),
        ({"api-version": "latest"}, "InvalidApiVersion"),
        ({"identifier": ""}, "InvalidLengthOfSessionIdentifier"),
        ({"identifier": "abc"}, "InvalidLengthOfSessionIdentifier"),
        ({"identifier": "x" * 129}, "InvalidLengthOfSessionIdentifier"),
    ],
)
async def test_identifier_and_api_version_are_required(params, code):
    response = await ask(
        FakeSessionPool(), "POST", "/executions", json={"code": "x"}, params=params
    )
    assert response.status_code == 400
    assert response.headers["x-ms-error-code"] == code
    error = response.json()["error"]
    assert error["code"] == code
    assert len(error["traceId"]) == 32


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {}},
        {"json": {"code": 7}},
        {"json": {"code": "!", "codeInputType": "InlineBase64"}},
        {"json": {"code": "x", "timeoutInSeconds": -1}},
        {"json": {"code": "x", "timeoutInSeconds": True}},
        {"json": {"code": "x", "outputStreamsMaxLength": "500"}},
        {"json": {"properties": {"code": "x", "executionType": 7}}},
        {"json": {"shellCommand": 7}},
        {"json": {"execCommandAndArgs": ["ls", 7]}},
        {"json": {"shellCommand": "", "execCommandAndArgs": []}},
        {"json": ["code"]},
        {"content": b"{"},
    ],
)
async def test_an_invalid_body_is_a_bad_request(request_):
    response = await ask(FakeSessionPool(), "POST", "/executions", **request_)
    assert response.status_code == 400
    assert response.json()["error"]["code"] in {"SessionPropertiesMissing", "InvalidRequest"}


async def test_a_full_pool_answers_429_in_the_flat_form():
    class FullPool(FakeSessionPool):
        async def execute(self, session_id, code, *, timeout, on_output=None, instance=None):
            raise PoolExhaustedError("all 5 are in use", retry_after=7.2)

    response = await ask(FullPool(), "POST", "/executions", json={"code": "x"})
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.json() == {"code": "SessionsCountExceedsLimit", "message": "all 5 are in use"}


@pytest.mark.parametrize(
    "path", ["/executions", "/files", "/session", "/listSessions", "/metadata", "/no"]
)
async def test_every_route_of_the_data_plane_needs_a_key(path):
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, httpx.AsyncClient() as http:
            for headers in ({}, {"authorization": "Bearer wrong"}, {"x-ms-apikey": "wrong"}):
                response = await http.get(url.removesuffix("/mcp") + path, headers=headers)
                assert response.status_code == 401
                assert response.json()["error"]["code"] == "Unauthorized"


async def test_an_unknown_path_is_an_error_in_the_same_form():
    response = await ask(FakeSessionPool(), "GET", "/nowhere")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "NotFound")


async def test_files_in_the_newer_form():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, Rest(url, NEW) as http:
            file = {"file": ("übersicht 1.csv", b"a,b\r\n--1,2\r\n")}
            answer = (await http.post("/files", files=file)).json()
            assert (answer["name"], answer["sizeInBytes"], answer["directory"]) == (
                "übersicht 1.csv",
                12,
                ".",
            )
            assert answer["contentType"] == "text/csv"
            await http.post("/files", files={"file": ("b.txt", b"b")}, params={"path": "sub/dir"})
            names = [file["name"] for file in (await http.get("/files")).json()["value"]]
            assert names == ["übersicht 1.csv"]
            deep = (await http.get("/files", params={"recursive": "true"})).json()["value"]
            assert [(f["directory"], f["name"]) for f in deep] == [
                ("sub/dir", "b.txt"),
                (".", "übersicht 1.csv"),
            ]
            below = (await http.get("/files", params={"path": "/mnt/data/sub/dir"})).json()["value"]
            assert [file["name"] for file in below] == ["b.txt"]
            content = await http.get("/files/%C3%BCbersicht%201.csv/content")
            assert content.content == b"a,b\r\n--1,2\r\n"
            assert content.headers["content-type"] == "application/octet-stream"
            assert (await http.get("/files/b.txt", params={"path": "sub/dir"})).json()[
                "sizeInBytes"
            ] == 1
            assert (
                await http.delete("/files/b.txt", params={"path": "sub/dir"})
            ).status_code == 204
            missing = await http.get("/files/b.txt/content", params={"path": "sub/dir"})
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, "FileNotFound")


async def test_files_in_the_older_form():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, Rest(url, OLD) as http:
            file = {"file": ("/mnt/data/a.txt", b"abc")}
            answer = (await http.post("/files/upload", files=file)).json()["value"][0]["properties"]
            assert (answer["filename"], answer["size"]) == ("a.txt", 3)
            listed = (await http.get("/files")).json()["value"]
            assert [entry["properties"]["filename"] for entry in listed] == ["a.txt"]
            assert (await http.get("/files/content/a.txt")).content == b"abc"
            assert (await http.delete("/files/a.txt")).json() == {
                "message": "file deleted successfully"
            }
            assert (await http.get("/files/content/a.txt")).status_code == 404


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "a\\b"])
async def test_a_name_that_leaves_the_folder_is_refused(name):
    response = await ask(FakeSessionPool(), "POST", "/files", files={"file": (name, b"x")})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "FilePathInvalid")


async def test_a_file_beyond_the_limit_is_refused_and_not_kept():
    limits = Limits(file_bytes=1000)

    async def endless():
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(20):
            yield b"x" * 100

    with anyio.fail_after(30):
        async with serving(FakeSessionPool(), limits=limits) as url, Rest(url, NEW) as http:
            response = await http.post("/files", files={"file": ("a", b"x" * 10_000)})
            assert response.status_code == 413
            headers = {"content-type": "multipart/form-data; boundary=b"}
            response = await http.post("/files", content=endless(), headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (413, "FileTooLarge")
            assert (await http.get("/files")).json()["value"] == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"no form at all"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n',
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nhalf',
        ),
        ("multipart/form-data; boundary=b", b"--b\r\nx: " + b"y" * 40_000),
        ("multipart/form-data; boundary=" + "b" * 300, b"--" + b"b" * 300 + b"\r\n"),
        ("multipart/form-data; boundary=", b"--\r\n"),
        ("application/json", b"{}"),
    ],
)
async def test_an_upload_without_a_complete_file_is_a_bad_request(content_type, body):
    pool = FakeSessionPool()
    response = await ask(
        pool, "POST", "/files", content=body, headers={"content-type": content_type}
    )
    assert response.status_code == 400
    assert await pool.list_files("session-1") == []


async def test_an_upload_with_a_stale_content_type_is_accepted():
    body = (
        b'--b7\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b7--\r\n'
    )
    response = await ask(
        FakeSessionPool(),
        "POST",
        "/files",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert (response.status_code, response.json()["sizeInBytes"]) == (200, 1)


class LivePool(FakeSessionPool):
    """Lists one session, and records which ones are deleted."""

    def __init__(self):
        super().__init__()
        self.deleted: list[str] = []

    async def list_sessions(self):
        now = datetime(2026, 1, 2, tzinfo=UTC)
        return [SessionInfo("session-1", now, now, now + timedelta(minutes=30))]

    async def delete_session(self, session_id):
        self.deleted.append(session_id)


async def test_sessions_are_listed_and_ended():
    pool = LivePool()
    with anyio.fail_after(30):
        async with serving(pool) as url, Rest(url, NEW) as http:
            session = (await http.get("/session")).json()
            assert session["identifier"] == "session-1"
            assert session["expireAt"] == "2026-01-02T00:30:00+00:00"
            assert (await http.post("/.management/getSession")).json() == session
            listed = (await http.get("/listSessions")).json()
            assert listed["sessions"] == listed["value"] == [session]
            missing = await http.get("/session", params={"identifier": "session-2"})
            assert (missing.status_code, missing.json()["error"]["code"]) == (
                404,
                "NoSessionFoundError",
            )
            assert (await http.delete("/session")).status_code == 204
            stopped = await http.post("/.management/stopSession")
            assert stopped.text == "Session session-1 in session pool fake stopped."
            assert pool.deleted == ["session-1", "session-1"]
            assert "httpx" in {
                p["name"] for p in (await http.get("/metadata")).json()["preInstalledPackages"]
            }
