"""Keys and tokens: fetched once, renewed in time, never shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import anyio
import httpx
import pytest

from cci_plugins.azure import credentials
from cci_plugins.azure.credentials import Bearer, FetchedKey, ProviderAuth, StaticKey
from cci_plugins.errors import AuthenticationError, ConfigurationError

pytestmark = pytest.mark.anyio


class Token(NamedTuple):
    """As azure-core has it."""

    token: str
    expires_on: int


class Credential:
    """Counts, and gives tokens that last for some seconds."""

    def __init__(self, lasts: float = 3600, error: Exception | None = None) -> None:
        self.lasts = lasts
        self.error = error
        self.scopes: list[str] = []

    def get_token(self, *scopes: str) -> Token:
        time.sleep(0.02)  # so that a second caller comes before the first is done
        self.scopes.extend(scopes)
        if self.error is not None:
            raise self.error
        return Token(f"token-{len(self.scopes)}", int(time.time() + self.lasts))


class AsyncCredential(Credential):
    """The same, without blocking."""

    async def get_token(self, *scopes: str) -> Token:  # type: ignore[override]
        return await anyio.to_thread.run_sync(lambda: Credential.get_token(self, *scopes))


async def at_once(count: int, call: Callable[[], object]) -> list[object]:
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
    access = Bearer(credential)
    headers = await at_once(100, access.headers) + [await access.headers() for _ in range(100)]
    assert headers == [{"authorization": "Bearer token-1"}] * 200
    assert credential.scopes == ["https://dynamicsessions.io/.default"]


async def test_a_token_is_renewed_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "RENEW_RETRY_SECONDS", 0)
    credential = Credential(lasts=credentials.RENEW_BEFORE_SECONDS - 1)
    access = Bearer(credential)
    assert [await access.headers() for _ in range(2)][1] == {"authorization": "Bearer token-2"}


async def test_a_token_that_still_holds_is_used_while_no_new_one_can_be_had(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(credentials, "RENEW_RETRY_SECONDS", 0)
    credential = Credential(lasts=60)
    access = Bearer(credential)
    await access.headers()
    credential.error = RuntimeError("Entra is down")
    assert await access.headers() == {"authorization": "Bearer token-1"}
    assert "Entra is down" in caplog.text
    assert "token-1" not in caplog.text


async def test_who_cannot_sign_in_is_told_what_to_do() -> None:
    access = Bearer(Credential(error=RuntimeError("no credential\nlong story")))
    with pytest.raises(AuthenticationError, match=r"RuntimeError: no credential\)") as caught:
        await access.headers()
    assert "az login" in (caught.value.hint or "")
    assert caught.value.__suppress_context__


async def test_many_refusals_of_one_token_fetch_one_other() -> None:
    credential = Credential()
    access = Bearer(credential)
    await access.headers()
    version = access.version
    assert all(await at_once(16, lambda: access.renew(version)))
    assert len(credential.scopes) == 2
    assert await access.headers() == {"authorization": "Bearer token-2"}


async def test_a_token_as_given_is_not_renewed() -> None:
    access = Bearer("a-token")
    assert await access.headers() == {"authorization": "Bearer a-token"}
    assert not await access.renew(access.version)


async def test_a_key_is_fetched_once_and_again_when_it_was_refused() -> None:
    keys = ["first", "second", "second"]
    access = FetchedKey(fetch=lambda: _later(keys.pop(0)))
    assert await at_once(16, access.headers) == [{"x-ms-apikey": "first"}] * 16
    version = access.version
    assert all(await at_once(16, lambda: access.renew(version)))
    assert await access.headers() == {"x-ms-apikey": "second"}
    assert not await access.renew(access.version), "the same key again is no reason to try again"


async def _later(value: str) -> str:
    await anyio.sleep(0.01)
    return value


async def test_a_key_that_was_given_is_the_first() -> None:
    access = FetchedKey(fetch=lambda: _later("fetched"), first="given")
    assert await access.headers() == {"x-ms-apikey": "given"}
    assert await access.renew(access.version)
    assert await access.headers() == {"x-ms-apikey": "fetched"}


@pytest.mark.parametrize("value", ["", "s\u00e9cret", "two words", "line\n"])
def test_what_cannot_be_a_key_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        StaticKey(value)
    assert not value or value not in str(caught.value)


async def test_headers_are_put_on_each_request_and_show_in_no_repr() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["x-ms-apikey"])
        return httpx.Response(200)

    access = StaticKey("planted-key")
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        client.auth = ProviderAuth(access)
        await client.get("http://127.0.0.1/")
        assert "planted" not in repr(client) + repr(access) + repr(client.auth)
    assert seen == ["planted-key"]
