"""Keys and tokens are fetched once, renewed in time, and never shown."""

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
