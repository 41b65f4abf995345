"""The server as a gateway: signed environments, a rate, a size, and several replicas."""

from datetime import timedelta

import anyio
import httpx
import pytest

from cci_plugins.errors import ConfigurationError
from cci_plugins.models import Execution
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.anyio

RUN = "runPythonCodeInRemoteEnvironment"
RUN_SHELL = "runShellCommandInRemoteEnvironment"
SECRET = b"a secret of the tests, 32 bytes or more"
REST = [
    ("POST", "/executions"),
    ("GET", "/executions/1"),
    ("POST", "/code/execute"),
    ("POST", "/python/execute"),
    ("POST", "/execute"),
    ("GET", "/files"),
    ("POST", "/files/upload"),
    ("GET", "/files/a/content"),
    ("DELETE", "/files/a"),
    ("GET", "/session"),
    ("DELETE", "/session"),
    ("GET", "/listSessions"),
    ("POST", "/.management/stopSession"),
]


def signed(**options):
    from cci_plugins.server import SignedEnvironments

    return {"environments": SignedEnvironments(SECRET, **options), "rest": False}


def client(url: str, key: str = KEY) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"x-ms-apikey": key}, timeout=30)


async def post(http: httpx.AsyncClient, tool: str, **arguments) -> httpx.Response:
    params = {"name": tool, "arguments": arguments}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return await http.post("", json=body)


async def call(http: httpx.AsyncClient, tool: str, **arguments) -> dict:
    response = await post(http, tool, **arguments)
    assert response.status_code == 200, response.text
    return response.json()["result"]


async def launch(http: httpx.AsyncClient) -> str:
    return (await call(http, "launchShell"))["structuredContent"]["environmentId"]


async def test_an_environment_of_one_replica_is_the_same_session_at_another():
    one, other = FakeSessionPool(), FakeSessionPool(Execution(stdout="hi\n"))
    with anyio.fail_after(30):
        async with serving(one, **signed()) as url, client(url) as http:
            environment_id = await launch(http)
            await call(http, RUN, environmentId=environment_id, pythonCode="1")
        async with serving(other, **signed()) as url, client(url) as http:
            result = await call(http, RUN, environmentId=environment_id, pythonCode="2")
    assert result["structuredContent"]["stdout"] == "hi\n"
    ((first, _),), ((second, _),) = one.calls, other.calls
    assert first == second
    assert first.startswith("cci-")
    assert environment_id not in first


@pytest.mark.parametrize("tool", [RUN, RUN_SHELL])
@pytest.mark.parametrize("given", ["session-1", "x" * 44, "", None, 7])
async def test_an_environment_that_was_not_launched_runs_nothing_and_the_error_has_a_next_step(
    tool, given
):
    pool = FakeSessionPool()
    with anyio.fail_after(30):
        async with serving(pool, **signed()) as url, client(url) as http:
            where = {"environmentId": given, "pythonCode": "1", "shellCommand": "true"}
            result = await call(http, tool, **where)
    assert result["isError"] is True
    assert result["content"][0]["text"] == (
        "EnvironmentNotFound: The environment does not exist: this server did not issue its "
        "environmentId. Call launchShell for one."
    )
    assert pool.calls == []


async def test_an_environment_that_is_too_old_runs_nothing():
    pool = FakeSessionPool()
    with anyio.fail_after(30):
        options = signed(max_age=timedelta(seconds=-1))
        async with serving(pool, **options) as url, client(url) as http:
            where = {"environmentId": await launch(http), "pythonCode": "1"}
            text = (await call(http, RUN, **where))["content"][0]["text"]
    assert "too old" in text
    assert "launchShell" in text
    assert pool.calls == []


@pytest.mark.parametrize(("method", "path"), REST)
async def test_no_route_accepts_an_unsigned_identifier(method, path):
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(), **signed()) as url, client(url) as http:
            params = {"identifier": "session-1", "api-version": "2025-10-02-preview"}
            where = url.replace("/mcp", path)
            assert (await http.request(method, where, params=params)).status_code == 404
            assert (await http.get(url.replace("/mcp", "/health"))).status_code == 200


async def test_rest_routes_with_signed_environments_are_a_configuration_error():
    from cci_plugins.server import create_app

    options = signed() | {"rest": True}
    with pytest.raises(ConfigurationError, match="REST"):
        create_app(FakeSessionPool(), api_key=KEY, **options)


@pytest.mark.parametrize("key", [KEY, None])
async def test_too_many_requests_are_refused_with_a_time_to_retry(key):
    with anyio.fail_after(30):
        options = {"api_key": key, "requests_per_minute": 3}
        async with serving(FakeSessionPool(), **options) as url, client(url) as http:
            for _ in range(3):
                await launch(http)
            refused = await post(http, "launchShell")
            health = [(await http.get(url.replace("/mcp", "/health"))) for _ in range(5)]
            async with client(url, "wrong") as other:
                unauthorized = await post(other, "launchShell")
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ms-error-code"] == "TooManyRequests"
    assert set(refused.json()) == {"code", "message"}
    assert {response.status_code for response in health} == {200}
    assert unauthorized.status_code == (401 if key else 429)


async def test_runs_are_limited_for_each_environment_and_launches_by_the_key():
    pool = FakeSessionPool()
    with anyio.fail_after(30):
        options = {"runs_per_minute": 2, "requests_per_minute": 1_000, **signed()}
        async with serving(pool, **options) as url, client(url) as http:
            environments = [await launch(http) for _ in range(170)]
            for environment in environments[:2]:
                where = {"environmentId": environment, "pythonCode": "1"}
                for _ in range(2):
                    assert not (await call(http, RUN, **where)).get("isError")
                refused = await call(http, RUN, **where)
                assert refused["isError"]
                failure = refused["_meta"]["cci_plugins/error"]
                assert failure["code"] == "SessionsCountExceedsLimit"
                assert failure["retryable"]
                assert 1 <= failure["retryAfter"] <= 60
    assert len([one for one in pool.calls if "execute" in str(one)]) <= 4


async def test_a_wrong_key_does_not_use_up_the_rate():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(), requests_per_minute=1) as url:
            async with client(url, "wrong") as other:
                for _ in range(3):
                    assert (await post(other, "launchShell")).status_code == 401
            async with client(url) as http:
                assert await launch(http)


@pytest.mark.parametrize(("size", "status"), [(900, 200), (1100, 413)])
async def test_the_longest_body_is_an_option_on_every_route(size, status):
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(), body_bytes=1000) as url, client(url) as http:
            padding = "x" * (size - 200)
            where = {"environmentId": "session-1", "pythonCode": padding}
            assert (await post(http, RUN, **where)).status_code == status
            params = {"identifier": "session-1", "api-version": "2025-10-02-preview"}
            executions = url.replace("/mcp", "/executions")
            body = {"code": padding + "x" * 150}
            ran = await http.post(executions, params=params, json=body)
    assert ran.status_code == status


async def test_a_body_beyond_the_sdks_own_limit_is_served_where_it_is_allowed():
    with anyio.fail_after(30):
        options = {"body_bytes": 8 * 1024**2}
        async with serving(FakeSessionPool(), **options) as url, client(url) as http:
            code = "x" * (5 * 1024**2)
            assert await call(http, RUN, environmentId="session-1", pythonCode=code)
