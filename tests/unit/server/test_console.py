"""The JSON routes of the console."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from cci_plugins.errors import ConfigurationError
from cci_plugins.models import Execution, Result
from cci_plugins.testing import FakeSessionPool

create_app = pytest.importorskip("cci_plugins.server").create_app
pytestmark = pytest.mark.anyio

KEY = "a-key-for-the-tests"
VERSION = {"api-version": "2025-10-02-preview"}


def client(app: Any, key: str = KEY) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    headers = {"x-ms-apikey": key}
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


async def run(http: httpx.AsyncClient, session: str, code: str) -> None:
    done = await http.post(
        "/executions", params={**VERSION, "identifier": session}, json={"code": code}
    )
    assert done.status_code == 200, done.text


async def test_the_console_is_off_by_default_and_needs_the_key() -> None:
    async with client(create_app(FakeSessionPool(), api_key=KEY)) as http:
        assert (await http.get("/console/sessions")).status_code == 404
    async with client(create_app(FakeSessionPool(), api_key=KEY, console=True), "wrong") as http:
        for method, path in (
            ("GET", "sessions"),
            ("GET", "runs?identifier=session-1"),
            ("GET", "files?identifier=session-1"),
            ("DELETE", "session?identifier=session-1"),
        ):
            assert (await http.request(method, f"/console/{path}")).status_code == 401
    with pytest.raises(ConfigurationError, match="a console needs a key"):
        create_app(FakeSessionPool(), api_key=None, console=True)


async def test_sessions_runs_and_files_are_listed_and_a_session_is_ended() -> None:
    pool = FakeSessionPool(Execution(stdout="hi\n", results=(Result({"text/plain": "1"}),)))
    async with client(create_app(pool, api_key=KEY, console=True)) as http:
        await run(http, "session-1", "print('hi')")
        await run(http, "session-1", "2")
        listed = (await http.get("/console/sessions")).json()
        assert (listed["pool"], listed["listsSessions"]) == ("fake", False)
        (session,) = listed["sessions"]
        assert (session["identifier"], session["runs"], session["mayLive"]) == (
            "session-1",
            2,
            True,
        )

        answer = await http.get("/console/runs", params={"identifier": "session-1"})
        assert answer.headers["cache-control"] == "no-store"
        first, second = answer.json()["runs"]
        assert (first["code"], first["entry"], first["execution"]["stdout"]) == (
            "print('hi')",
            "rest",
            "hi\n",
        )
        query = {"identifier": "session-1", "from": second["number"], "since": 2}
        later = (await http.get("/console/runs", params=query)).json()["runs"]
        assert [one["number"] for one in later] == [second["number"]]
        assert later[0]["output"] == [{"stream": "stdout", "text": "\n"}]

        files = await http.get("/console/files", params={"identifier": "session-1"})
        assert files.json() == {"files": []}
        done = await http.delete("/console/session", params={"identifier": "session-1"})
        assert done.status_code == 204
        again = await http.delete("/console/session", params={"identifier": "session-1"})
        assert (again.status_code, again.json()["error"]["code"]) == (404, "NoSessionFoundError")
        (session,) = (await http.get("/console/sessions")).json()["sessions"]
        assert (session["mayLive"], session["endedAt"] is not None) == (False, True)


async def test_a_long_history_comes_in_several_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cci_plugins.server.console.MAX_ANSWER_BYTES", 1)
    async with client(create_app(FakeSessionPool(), api_key=KEY, console=True)) as http:
        for code in "123":
            await run(http, "session-1", code)
        codes, query = [], {"identifier": "session-1", "from": 0}
        while True:
            page = (await http.get("/console/runs", params=query)).json()
            codes += [one["code"] for one in page["runs"]]
            query["from"] = page["runs"][-1]["number"] + 1
            if not page["hasMore"]:
                break
        assert codes == ["1", "2", "3"]


@pytest.mark.parametrize("query", ["", "?identifier=a", "?identifier=session-1&from=x"])
async def test_a_malformed_query_is_refused(query: str) -> None:
    async with client(create_app(FakeSessionPool(), api_key=KEY, console=True)) as http:
        assert (await http.get(f"/console/runs{query}")).status_code == 400


async def test_a_caller_who_signed_in_does_not_see_the_console(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cci_plugins.server import EntraSignIn, SignedEnvironments

    async def accept(*_: object) -> str:
        return "somebody"

    monkeypatch.setattr(EntraSignIn, "check", accept)
    app = create_app(
        FakeSessionPool(),
        api_key=KEY,
        environments=SignedEnvironments(b"a secret of the tests, 32 bytes or more"),
        rest=False,
        sign_in=EntraSignIn("11111111-2222-3333-4444-555555555555", audiences=["api://x"]),
        console=True,
    )
    async with client(app) as http:
        assert (await http.get("/console/sessions")).status_code == 200
        del http.headers["x-ms-apikey"]
        refused = await http.get("/console/sessions", headers={"authorization": "Bearer t.t.t"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "Forbidden")
