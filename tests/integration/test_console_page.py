"""The console's page over HTTP: who may see it, what may change, and what reaches a browser."""

import re
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import anyio
import httpx
import pytest

from cci_plugins.errors import PoolUnavailableError
from cci_plugins.models import ErrorInfo, Execution, FileInfo, Result, SessionInfo
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.anyio

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAAA="
RUN = "/executions?api-version=2025-10-02-preview&identifier="
ATTACK = (
    "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31mred\x1b[0m\x07\u202egpj"
)
PATHS = ("/sessions", "/sessions/", "/sessions/session-1", "/sessions/get?id=session-1&name=a.txt")


class ListingPool(FakeSessionPool):
    """A fake pool that lists the sessions that ran code, and records what ends them."""

    def __init__(self, *executions: Execution) -> None:
        super().__init__(*executions)
        self.capabilities = replace(self.capabilities, lists_sessions=True)
        self.ended: list[str] = []
        self.looked_at: list[str] = []
        self.failure: Exception | None = None

    async def list_sessions(self):
        if self.failure is not None:
            raise self.failure
        now = datetime.now(UTC)
        live = {identifier for identifier, _ in self.calls} | set(self._files)
        times = (now, now, now + timedelta(minutes=12))
        return [SessionInfo(one, *times) for one in sorted(live - set(self.ended))]

    async def list_files(self, session_id):
        self.looked_at.append(session_id)
        return await super().list_files(session_id)

    async def delete_session(self, session_id):
        self.ended.append(session_id)
        await super().delete_session(session_id)


@asynccontextmanager
async def opened(pool, **options):
    """Yield a client with the key, and a browser that has no key."""
    async with serving(pool, **{"console": True} | options) as url:
        base = url.removesuffix("/mcp")
        async with (
            httpx.AsyncClient(base_url=base, headers={"x-ms-apikey": KEY}) as client,
            httpx.AsyncClient(base_url=base) as browser,
        ):
            yield client, browser


async def sign_in(browser, key: str = KEY, **options) -> httpx.Response:
    return await browser.post("/sessions/sign-in", data={"key": key}, **options)


async def run(client, identifier: str = "session-1", code: str = "print(1)") -> None:
    answer = await client.post(RUN + identifier, json={"code": code})
    assert answer.status_code == 200, answer.text


def find_token(page: str) -> str:
    match = re.search(r'name="token" value="([^"]+)"', page)
    assert match is not None, page
    return match[1]


class Elements(HTMLParser):
    """The elements of a page, and the attributes of each."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def check_headers(answer: httpx.Response) -> None:
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "same-origin"


async def test_the_page_is_off_unless_it_is_asked_for():
    async with opened(ListingPool(), console=False) as (client, browser):
        for path in (*PATHS, "/sessions/sign-in"):
            assert (await browser.get(path)).status_code == 401
            assert (await client.get(path)).status_code == 404


async def test_nobody_sees_a_page_or_changes_anything_without_signing_in():
    pool = ListingPool()
    async with opened(pool) as (client, browser):
        await run(client)
        forged = {"cookie": "cci_console=x; cci_console_00000000=x"}
        for headers in ({}, forged, {"x-ms-apikey": "wrong"}):
            for path in PATHS:
                answer = await browser.get(path, headers=headers)
                assert (answer.status_code, answer.text) == (303, "")
                assert answer.headers["location"] == "/sessions/sign-in"
            for path in ("/sessions/end", "/sessions/sign-out"):
                form = {"id": "session-1", "token": ""}
                answer = await browser.post(path, data=form, headers=headers)
                assert answer.status_code == 403
                check_headers(answer)
        answer = await browser.get("/sessions/sign-in")
        assert answer.status_code == 200
        assert 'type="password"' in answer.text
        check_headers(answer)
        for wrong in ("", "wrong", KEY[:-1], KEY + "x", "\udcff\0"[1:]):
            answer = await sign_in(browser, wrong)
            assert answer.status_code == 401
            assert "set-cookie" not in answer.headers
        evil = await browser.get("/sessions/sign-in", headers={"host": "evil.example"})
        assert evil.status_code == 403
        assert pool.ended == []


async def test_the_cookie_holds_a_random_token_that_only_this_page_gets():
    async with opened(ListingPool(), trusted_proxies=["127.0.0.1"]) as (_, browser):
        answer = await sign_in(browser)
        assert (answer.status_code, answer.headers["location"]) == (303, "/sessions")
        cookie = answer.headers["set-cookie"]
        assert KEY not in cookie
        flags = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "samesite=strict", "path=/sessions"} <= flags
        assert "secure" not in flags
        token = cookie.partition("=")[2].partition(";")[0]
        assert len(token) >= 40
        by_https = await sign_in(browser, headers={"x-forwarded-proto": "https"})
        assert "; Secure" in by_https.headers["set-cookie"]
        assert token not in by_https.headers["set-cookie"]


async def test_a_cookie_is_worth_nothing_after_signing_out():
    async with opened(ListingPool()) as (_, browser):
        name, _, rest = (await sign_in(browser)).headers["set-cookie"].partition("=")
        kept = {"cookie": f"{name}={rest.partition(';')[0]}"}
        token = find_token((await browser.get("/sessions")).text)
        answer = await browser.post("/sessions/sign-out", data={"token": token})
        assert answer.headers["location"] == "/sessions/sign-in"
        assert "max-age=0" in answer.headers["set-cookie"].lower()
        browser.cookies.clear()
        assert (await browser.get("/sessions", headers=kept)).status_code == 303


async def test_the_key_is_in_no_page_no_address_and_no_log(caplog, capfd):
    caplog.set_level("DEBUG")
    async with opened(ListingPool()) as (client, browser):
        await run(client)
        caplog.clear()  # of the client, which shows its own requests
        answers = [await sign_in(browser, KEY + "x"), await sign_in(browser)]
        answers += [await browser.get(path) for path in (*PATHS, "/sessions/sign-in")]
        shown = "".join(f"{one.url}{one.headers}{one.text}" for one in answers)
    out, err = capfd.readouterr()
    assert KEY not in shown + caplog.text + out + err


async def test_a_change_needs_the_token_of_a_page_of_the_same_visit():
    pool = ListingPool()
    async with opened(pool) as (client, browser):
        await run(client)
        await sign_in(browser)
        async with httpx.AsyncClient(base_url=browser.base_url) as other:
            await sign_in(other)
            foreign = find_token((await other.get("/sessions/session-1")).text)
        token = find_token((await browser.get("/sessions/session-1")).text)
        for wrong in (None, "", "x", foreign, token[:-1], token + "\xe9"):
            form = {"id": "session-1"} | ({} if wrong is None else {"token": wrong})
            assert (await browser.post("/sessions/end", data=form)).status_code == 403
            assert (await browser.post("/sessions/sign-out", data=form)).status_code == 403
        form = {"id": "session-1", "token": token}
        assert (await browser.post("/sessions/end", json=form)).status_code == 403
        evil = {"origin": "https://evil.example"}
        assert (await browser.post("/sessions/end", data=form, headers=evil)).status_code == 403
        large = form | {"padding": "x" * 100_000}
        assert (await browser.post("/sessions/end", data=large)).status_code == 403
        assert pool.ended == []
        answer = await browser.post("/sessions/end", data=form)
        assert (answer.status_code, answer.headers["location"]) == (303, "/sessions")
        assert pool.ended == ["session-1"]
        page = (await browser.get("/sessions/session-1")).text
        assert "print(1)" in page  # what it ran is still there
        assert "End this session" not in page


async def test_looking_at_pages_starts_and_ends_nothing():
    pool = ListingPool()
    async with opened(pool) as (client, browser):
        await run(client)
        await sign_in(browser)
        for path in (*PATHS, "/sessions/end?id=session-1", "/sessions/sign-out"):
            await browser.get(path)
            await browser.head(path)
        for unknown in ("/sessions/never-seen", "/sessions/get?id=never-seen&name=a.txt"):
            answer = await browser.get(unknown)
            assert answer.status_code == 404
            check_headers(answer)
        for path in ("/sessions/sign-in", "/sessions/"):
            assert (await browser.get(path)).headers["location"] == "/sessions"
        await pool.delete_session("session-1")
        pool.looked_at.clear()
        assert "has ended" in (await browser.get("/sessions/session-1")).text
        assert pool.looked_at == []
        assert pool.calls == [("session-1", "print(1)")]
        assert pool.ended == ["session-1"]


async def test_hostile_text_of_sessions_stays_text():
    error = ErrorInfo("Bad" + ATTACK, ATTACK, "Traceback " + ATTACK)
    results = (
        Result({"text/html": ATTACK, "text/plain": "as text " + ATTACK}, is_main=True),
        Result({"image/svg+xml": f"<svg onload=alert(1)>{ATTACK}</svg>"}),
        Result({"image/png": PNG}),
        Result({"image/png": "javascript:alert(1)"}),
        Result({"image/" + ATTACK: ATTACK}),
    )
    execution = Execution(
        stdout=ATTACK,
        stderr=ATTACK,
        results=results,
        error=error,
        status="failed",
        notes=(ATTACK,),
        files=(FileInfo(ATTACK, 5),),
    )
    pool = ListingPool(execution)
    identifier = "x/../'\"><script>alert(1)</script>&%2e%00?#"
    async with opened(pool) as (client, browser):
        await run(client, httpx.QueryParams({"i": identifier}).__str__()[2:], ATTACK)
        pool._files[identifier] = {ATTACK[:58].replace("/", "_"): b"x", "a'\"&<b>.txt": b"secret"}
        await sign_in(browser)
        overview = Elements((await browser.get("/sessions")).text)
        links = [attrs["href"] for tag, attrs in overview.found if tag == "a"]
        link = next(href for href in links if href.startswith("/sessions/"))
        answer = await browser.get(link)
        assert answer.status_code == 200
        check_headers(answer)
        page = Elements(answer.text)
        for tag, attrs in (*overview.found, *page.found):
            assert tag not in {"script", "svg", "iframe", "object", "embed", "base", "template"}
            assert not [name for name in attrs if name.startswith("on") or name == "srcdoc"]
            assert not str(attrs.get("href", "")).lower().startswith(("javascript", "http"))
        images = [attrs["src"] for tag, attrs in page.found if tag == "img"]
        assert images == [f"data:image/png;base64,{PNG}"]
        assert "<script>alert(1)</script><img src=x onerror=alert(1)>red" in page.text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page.text)
        downloads = [
            attrs["href"]
            for _, attrs in page.found
            if str(attrs.get("href")).startswith("/sessions/get")
        ]
        files = [await browser.get(href) for href in downloads]
        assert [one.content for one in files] == [b"x", b"secret"]
        for file in files:
            check_headers(file)
            assert "sandbox" in file.headers["content-security-policy"]
            assert file.headers["content-type"] == "application/octet-stream"
            assert re.fullmatch(
                r"attachment; filename\*=UTF-8''[\w.%~-]+", file.headers["content-disposition"]
            )


async def test_pages_show_state_time_left_runs_and_what_they_do_not_know():
    pool = ListingPool(Execution(stdout="hello"))
    async with opened(pool) as (client, browser):
        await sign_in(browser)
        page = (await browser.get("/sessions")).text
        assert "No session has run code here yet." in page
        assert "One replica only" in page
        for number in range(25):
            await run(client, code=f"number = {number:03}")
        await run(client, "sign-in")
        page = (await browser.get("/sessions")).text
        assert 'http-equiv="refresh"' not in page
        for text in ("session-1", ">25<", "12 min", "live", 'href="/sessions/sign-in"'):
            assert text in page
        assert "print(1)" in (await browser.get("/sessions/sign-in")).text
        page = (await browser.get("/sessions/session-1")).text
        assert "number = 024" in page
        assert "number = 004" not in page
        older = re.search(r'href="(\?before=\d+)"', page)
        assert older is not None
        page = (await browser.get("/sessions/session-1" + older[1])).text
        assert "number = 004" in page
        assert "number = 000" in page
        assert "Older runs</a>" not in page
        pool.failure = PoolUnavailableError("the pool is away")
        for path in ("/sessions", "/sessions/session-1"):
            answer = await browser.get(path)
            assert answer.status_code == 200
            assert "the pool is away" in answer.text


async def test_a_run_is_shown_while_it_goes_on():
    started, go_on = anyio.Event(), anyio.Event()

    class WaitingPool(ListingPool):
        async def execute(self, session_id, code, *, on_output=None, **options):
            self.calls.append((session_id, code))
            from cci_plugins.models import OutputEvent

            on_output(OutputEvent("stdout", "so far\n"))
            started.set()
            await go_on.wait()
            return Execution(stdout="so far\nand done\n")

    async with opened(WaitingPool()) as (client, browser), anyio.create_task_group() as tasks:
        await sign_in(browser)
        tasks.start_soon(run, client)
        await started.wait()
        page = (await browser.get("/sessions/session-1")).text
        for text in ('http-equiv="refresh"', "so far", "running code"):
            assert text in page
        assert 'http-equiv="refresh"' in (await browser.get("/sessions")).text
        go_on.set()


async def test_sign_in_attempts_are_limited_and_cost_clients_nothing():
    options = {"requests_per_minute": 12}
    async with opened(ListingPool(), **options) as (client, browser):
        statuses = [(await sign_in(browser, "wrong")).status_code for _ in range(10)]
        assert statuses == [401] * 10
        answer = await sign_in(browser)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        check_headers(answer)
        await browser.get("/sessions/sign-in")
        for _ in range(11):
            await run(client)


async def test_secrets_are_hidden_as_everywhere():
    from cci_plugins.redaction.registry import SECRETS

    SECRETS.register("a-secret-of-the-host")
    pool = ListingPool(Execution(stdout="it is a-secret-of-the-host"))
    async with opened(pool) as (client, browser):
        await run(client, code="x = 'a-secret-of-the-host'")
        pool._files["session-1"] = {"a-secret-of-the-host.txt": b""}
        await sign_in(browser)
        page = (await browser.get("/sessions/session-1")).text
        assert "it is" in page
        assert "a-secret-of-the-host" not in page
