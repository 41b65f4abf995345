"""What must never be seen is not, however it is spelt or cut."""

from __future__ import annotations

import json
import logging
import time
from base64 import b64encode
from hashlib import sha256
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cci_plugins import redaction
from cci_plugins.redaction import RedactingFilter, Redactor, redact, redact_value

SIGNATURE = "q8bYtZ0/W+lk3jX1vPq9aR7cS5dN2mF4hG6jK8lQ0w="
JWT = "eyJhbGciOiJub25lIn0.eyJhdWQiOiJwbGFudGVkIn0.c2lnbmF0dXJl"
URL = "https://a.blob.core.windows.net/c/b?sv=2026-10-06&sp=r&sig="
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq1qYh9xk2mQ7wA0bCdEfGhIjK=="

SPELLINGS = [
    URL + quote(SIGNATURE, safe=""),
    URL + SIGNATURE,
    quote(URL + quote(SIGNATURE, safe=""), safe=""),
    (URL + quote(SIGNATURE, safe="")).replace("&", "\\u0026"),
    (URL + quote(SIGNATURE, safe="")).replace("&", "&amp;"),
    f"?SIG={quote(SIGNATURE, safe='')}",
    f"?%73ig={quote(SIGNATURE, safe='')}",
    f"AccountName=a;AccountKey={KEY};EndpointSuffix=core.windows.net",
    f'{{"account_key": "{KEY}"}}',
    f"Authorization: Bearer {JWT}",
    f"the token is {JWT}.",
    "x-ms-apikey: planted-key-of-the-pool-1234",
    '"x-ms-apikey": "planted-key-of-the-pool-1234"',
]
HIDDEN = ("q8bYtZ0", "3jX1vPq9aR7", "Eby8vdM02x", "eyJhdWQ", "planted-key", "c2lnbmF0dXJl")
ORDINARY = [
    "signal=5 design=7 sig = 3",
    "keys: 12, monkey=3, accounts=4",
    "the bearer of this letter",
    "signature: none",
    "assign=abcdefghijklmnopqrstuvwxyz",
    "https://a.blob.core.windows.net/c/b?sv=2026-10-06&sp=r",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_secret_is_covered_by_its_form(text: str) -> None:
    covered = redact(f"before {text} after")
    assert not [part for part in HIDDEN if part in covered]
    assert redaction.GONE in covered
    assert covered.startswith("before ")
    assert covered.endswith(" after")


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text
    redactor = Redactor()
    assert redactor.feed(text) + redactor.finish() == text


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_secret_is_covered_wherever_it_is_cut(text: str) -> None:
    whole = f"before {text} after"
    for cut in range(len(whole)):
        redactor = Redactor()
        covered = redactor.feed(whole[:cut]) + redactor.feed(whole[cut:]) + redactor.finish()
        assert not [part for part in HIDDEN if part in covered], cut
    redactor = Redactor()
    one_by_one = "".join(map(redactor.feed, whole)) + redactor.finish()
    assert not [part for part in HIDDEN if part in one_by_one]
    assert one_by_one == redact(whole)


def test_output_that_waits_for_nothing_is_shown_at_once() -> None:
    redactor = Redactor()
    for piece in ("Continue? [y/N] ", "10%\r", "saving...", "step 3:", "x = 5", "1, 2, 3, "):
        assert redactor.feed(piece) == piece


def test_a_known_secret_is_covered_in_every_spelling() -> None:
    secret = 'pässwort with "quotes" & more'
    redaction.know(secret)
    try:
        for text in (
            secret,
            quote(secret, safe=""),
            quote(quote(secret, safe=""), safe=""),
            json.dumps({"a": secret}),
            b64encode(secret.encode()).decode(),
        ):
            assert redaction.GONE in redact(f"a {text} b")
            for cut in range(len(text)):
                redactor = Redactor()
                out = redactor.feed(text[:cut]) + redactor.feed(text[cut:]) + redactor.finish()
                assert "wort" not in out
                assert "quotes" not in out
    finally:
        redaction.forget(secret)
    assert redact(secret) == secret
    redaction.know("short")
    assert redact("short") == "short"


def test_values_are_covered_and_images_left_alone() -> None:
    image = b64encode(b"sig=" + b"a" * 60).decode()
    value = {
        "text/plain": SPELLINGS[0],
        "image/png": image,
        "image/svg+xml": SPELLINGS[0],
        "rows": [{"url": SPELLINGS[0], "n": 1}, (SPELLINGS[0], None)],
    }
    covered = redact_value(value)
    assert not [part for part in HIDDEN if part in repr(covered)]
    assert covered["image/png"] == image
    assert covered["rows"][0]["n"] == 1


def test_exceptions_are_covered_with_all_they_came_from() -> None:
    error = ValueError(f"cannot read {SPELLINGS[0]}")
    error.add_note(SPELLINGS[0])
    error.__cause__ = OSError(5, SPELLINGS[0])
    assert redaction.redact_exception(error) is error
    told = [str(error), *error.__notes__, str(error.__cause__), repr(error)]
    assert not [part for part in HIDDEN if part in "".join(told)]


def test_log_records_are_covered(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("cci_plugins.test_redaction")
    redaction.install(logger.name)
    redaction.install(logger.name)
    assert len([part for part in logger.filters if isinstance(part, RedactingFilter)]) == 1
    with caplog.at_level("DEBUG", logger.name):
        logger.info("fetching %s with %d", SPELLINGS[0], 3)
        logger.info("plain %s", "text")
        logger.info("broken %d", "x")
        logger.error("it failed", exc_info=ValueError(SPELLINGS[0]))
        logger.info("there", stack_info=True)
    assert not [part for part in HIDDEN if part in caplog.text]
    assert "plain text" in caplog.text
    assert "ValueError" in caplog.text


@pytest.mark.parametrize("text", ["sig=", "a", "%", "sig=%3", "eyJ", "key=", " ", "=", "bearer "])
def test_hostile_text_takes_no_time(text: str) -> None:
    long = text * (2_000_000 // len(text))
    began = time.perf_counter()
    redact(long)
    redactor = Redactor()
    for start in range(0, len(long), 1 << 16):
        redactor.feed(long[start : start + (1 << 16)])
    redactor.finish()
    assert time.perf_counter() - began < 20


@given(st.text(), st.lists(st.integers(0, 400), max_size=6))
def test_text_without_secrets_comes_through_whole(text: str, cuts: list[int]) -> None:
    redactor = Redactor()
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[a:b] for a, b in pairwise(places)]
    shown = "".join(map(redactor.feed, pieces)) + redactor.finish()
    assert shown == redact(text)


def test_many_known_secrets_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", redaction._Known())
    secrets = [sha256(str(number).encode()).hexdigest() for number in range(600)]
    began = time.perf_counter()
    for secret in secrets:
        redaction.know(secret)
    text = "some plain output of a run\n" * 40_000
    assert redact(text) == text
    redactor = Redactor()
    for _ in range(1_000):
        redactor.feed("a line\n")
    assert time.perf_counter() - began < 30
    assert redact(f"{secrets[-1]} {secrets[0]}") == f"{redaction.GONE} {secrets[0]}"
    assert Redactor().feed(f"text {secrets[-1][:20]}") == "text "
