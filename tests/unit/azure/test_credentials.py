"""Keys and tokens are fetched once, renewed in time, and never shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest

from cci_plugins.azure import credentials
from cci_plugins.azure.credentials import (
    Bearer,
    CachedCredential,
    FetchedKey,
    ProviderAuth,
    StaticKey,
    decode_claims,
)
from cci_plugins.common import event_loop
from cci_plugins.errors import AuthenticationError, ConfigurationError

pytestmark = pytest.mark.anyio


class Token(NamedTuple):
    """A token in the form of azure-core."""

    token: str
    expires_on: int


class Credential:
    """A blocking credential that counts its calls."""

    def __init__(self, lasts: float = 3600, error: Exception | None = None) -> None:
        self.lasts = lasts
        self.error = error
        self.scopes: list[str] = []

    def get_token(self, *scopes: str) -> Token:
        time.sleep(0.02)  # so that a second caller arrives before the first is done
        self.scopes.extend(scopes)
        if self.error is not None:
            raise self.error
        return Token(f"token-{len(self.scopes)}", int(time.time() + self.lasts))


class AsyncCredential(Credential):
    """An asynchronous credential that counts its calls."""

    async def get_token(self, *scopes: str) -> Token:  # type: ignore[override]
        return await anyio.to_thread.run_sync(lambda: Credential.get_token(self, *scopes))


async def call_concurrently(count: int, call: Callable[[], object]) -> list[object]:
    results: list[object] = []

    async def one() -> None:
        results.append(await call())  # type: ignore[misc]

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(one)
    return results


@pytest.mark.parametrize("kind", [Credential, AsyncCredential])
async def test_two_hundred_calls_fetch_one_token(kind: type[Credential]) -> None:
    credential = kind()
    auth = Bearer(credential)
    headers = await call_concurrently(100, auth.headers) + [
        await auth.headers() for _ in range(100)
    ]
    assert headers == [{"authorization": "Bearer token-1"}] * 200
    assert credential.scopes == ["https://dynamicsessions.io/.default"]


async def test_a_token_is_renewed_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "RENEW_RETRY_SECONDS", 0)
    credential = Credential(lasts=credentials.RENEW_BEFORE_SECONDS - 1)
    auth = Bearer(credential)
    assert [await auth.headers() for _ in range(2)][1] == {"authorization": "Bearer token-2"}


async def test_a_valid_token_is_used_while_its_renewal_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(credentials, "RENEW_RETRY_SECONDS", 0)
    credential = Credential(lasts=60)
    auth = Bearer(credential)
    await auth.headers()
    credential.error = RuntimeError("Entra is down")
    assert await auth.headers() == {"authorization": "Bearer token-1"}
    assert "Entra is down" in caplog.text
    assert "token-1" not in caplog.text


async def test_a_failed_sign_in_names_the_next_step() -> None:
    auth = Bearer(Credential(error=RuntimeError("no credential\nlong story")))
    with pytest.raises(AuthenticationError, match=r"RuntimeError: no credential\)") as caught:
        await auth.headers()
    assert "az login" in (caught.value.hint or "")
    assert caught.value.__suppress_context__


async def test_many_refusals_of_one_token_fetch_one_new_token() -> None:
    credential = Credential()
    auth = Bearer(credential)
    await auth.headers()
    version = auth.version
    assert all(await call_concurrently(16, lambda: auth.renew(version)))
    assert len(credential.scopes) == 2
    assert await auth.headers() == {"authorization": "Bearer token-2"}


async def test_a_token_passed_as_text_is_not_renewed() -> None:
    auth = Bearer("a-token")
    assert await auth.headers() == {"authorization": "Bearer a-token"}
    assert not await auth.renew(auth.version)


async def test_a_key_is_fetched_once_and_again_after_a_refusal() -> None:
    keys = ["first", "second", "second"]
    auth = FetchedKey(fetch=lambda: _later(keys.pop(0)))
    assert await call_concurrently(16, auth.headers) == [{"x-ms-apikey": "first"}] * 16
    version = auth.version
    assert all(await call_concurrently(16, lambda: auth.renew(version)))
    assert await auth.headers() == {"x-ms-apikey": "second"}
    assert not await auth.renew(auth.version), "the same key again is not worth another try"


async def _later(value: str) -> str:
    await anyio.sleep(0.01)
    return value


async def test_a_key_that_was_passed_is_used_first() -> None:
    auth = FetchedKey(fetch=lambda: _later("fetched"), first="given")
    assert await auth.headers() == {"x-ms-apikey": "given"}
    assert await auth.renew(auth.version)
    assert await auth.headers() == {"x-ms-apikey": "fetched"}


@pytest.mark.parametrize("value", ["", "s\u00e9cret", "two words", "line\n"])
def test_an_invalid_key_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        StaticKey(value)
    assert not value or value not in str(caught.value)


async def test_headers_are_set_on_each_request_and_never_shown_in_a_repr() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["x-ms-apikey"])
        return httpx.Response(200)

    auth = StaticKey("planted-key")
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        client.auth = ProviderAuth(auth)
        await client.get("http://127.0.0.1/")
        assert "planted" not in repr(client) + repr(auth) + repr(client.auth)
    assert seen == ["planted-key"]


SCOPE = "https://example.org/.default"


async def get_tokens(source: Any, count: int = 2) -> list[str]:
    credential = CachedCredential(source)
    return [(await credential.get_token(SCOPE)).token for _ in range(count)]


async def get_later(scope: str) -> Token:
    await anyio.lowlevel.checkpoint()
    return Token(f"token for {scope}", int(time.time()) + 3600)


class PlainWithAwaitable:
    """A credential whose plain function returns an awaitable."""

    def get_token(self, *scopes: str) -> Any:
        return get_later(scopes[0])


@pytest.mark.parametrize(
    "source",
    [
        get_later,
        partial(get_later),
        lambda scope: Token(f"token for {scope}", int(time.time()) + 3600),
        PlainWithAwaitable(),
    ],
    ids=["async function", "partial", "function", "method with awaitable"],
)
async def test_functions_and_awaitables_are_sources_of_tokens(source: Any) -> None:
    assert await get_tokens(source) == [f"token for {SCOPE}"] * 2


async def test_a_function_may_return_the_token_as_text() -> None:
    calls = []

    def get_token(scope: str) -> str:
        calls.append(scope)
        return "a-token"

    assert await get_tokens(get_token, 5) == ["a-token"] * 5
    assert calls == [SCOPE]


async def test_an_adapter_is_not_wrapped_twice() -> None:
    credential = CachedCredential(Credential())
    assert CachedCredential.wrap(credential) is credential


async def test_claims_of_a_service_skip_the_cache() -> None:
    class Recorder(Credential):
        def get_token(self, *scopes: str, **options: str) -> Token:  # type: ignore[override]
            self.options = options
            return super().get_token(*scopes)

    source = Recorder()
    credential = CachedCredential(source)
    first = await credential.get_token(SCOPE)
    second = await credential.get_token(SCOPE, claims="more", enable_cae=True)
    assert (first.token, second.token) == ("token-1", "token-2")
    assert source.options == {"claims": "more"}
    assert (await credential.get_token(SCOPE)).token == "token-2"
    assert (await credential.get_token(SCOPE, tenant_id="other")).token == "token-3"


def test_an_asynchronous_credential_always_runs_on_the_loop_of_its_first_use() -> None:
    loops = []

    async def get_token(*_: str) -> Token:
        loops.append(asyncio.get_running_loop())
        return Token("token", int(time.time()))  # so that each call fetches one

    credential = CachedCredential(get_token)

    async def get_on_three_loops() -> asyncio.AbstractEventLoop:
        await credential.get_token("first")
        await event_loop.dispatch(credential.get_token, "second")
        await anyio.to_thread.run_sync(anyio.run, credential.get_token, "third")
        return asyncio.get_running_loop()

    assert loops == []
    home = anyio.run(get_on_three_loops)
    assert loops == [home] * 3
    event_loop.run_blocking(credential.get_token, "fourth")  # the first loop no longer runs
    assert loops[3] is not home


def test_loops_share_one_cache() -> None:
    source = Credential()
    credential = CachedCredential(source)
    for _ in range(3):
        anyio.run(credential.get_token, SCOPE)
        event_loop.run_blocking(credential.get_token, SCOPE)
    assert len(source.scopes) == 1


async def test_only_a_default_credential_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Closable(Credential):
        def close(self) -> None:
            closed.append(self)

    default, passed = Closable(), Closable()
    monkeypatch.setattr(credentials, "create_default_credential", lambda: default)
    for source in (None, passed):
        async with CachedCredential(source) as credential:
            await credential.get_token(SCOPE)
    assert closed == [default]


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "a.bnVsbA.c"])
def test_a_text_that_is_not_a_token_has_no_claims(token: str) -> None:
    assert decode_claims(token) == {}
