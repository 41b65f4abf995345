"""Secrets are found in every spelling, wherever a text is cut, and nothing else changes."""

from __future__ import annotations

import base64
import copy
import io
import json
import logging
import os
import time
import traceback
from collections.abc import Iterator
from html import escape
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples

from cci_plugins import redaction
from cci_plugins.redaction import (
    RedactingFilter,
    Redactor,
    forget,
    install,
    know,
    redact,
    redact_exception,
    redact_value,
)
from cci_plugins.redaction.registry import SECRETS, SecretRegistry

SIG = "kJ3x+9Zq/Lm0aBcD1eFgH2iJkL3mNoPqR4sTuVwX5y8="
KEY = base64.b64encode(bytes(range(64))).decode()
JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6Ing1dCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJlX29mX2l0"
URL = f"https://acct.blob.core.windows.net/c/b.csv?sv=2024-11-04&sp=r&sig={quote(SIG, safe='')}"
ENCODED_TWICE = quote(quote(URL, safe=""), safe="")


def escape_html(text: str) -> str:
    return "".join(f"&#{ord(char)};" if char in "+/=" else char for char in escape(text))


ANNOUNCED = {
    "plain": URL,
    "followed": URL + "&se=2026-01-01",
    "decoded": URL.replace(quote(SIG, safe=""), SIG),
    "encoded once": quote(URL, safe=""),
    "encoded twice": ENCODED_TWICE,
    "encoded twice, lower": ENCODED_TWICE.replace("%253D", "%253d").replace("%252F", "%252f"),
    "name encoded": URL.replace("sig=", "%73ig="),
    "name encoded twice": URL.replace("sig=", "%2573%2569%2567%253D"),
    "json": json.dumps(URL).replace("&", "\\u0026"),
    "json, value too": json.dumps(f"?sig={SIG}").replace("/", "\\/").replace("+", "\\u002b"),
    "json in json": json.dumps(json.dumps(URL).replace("&", "\\u0026")),
    "html": escape(URL),
    "html, numbers": escape_html(f"https://x/?a=1&sig={SIG}"),
    "upper": URL.replace("sig=", "SIG="),
    "bare": f"sig={SIG}",
    "parsed": str({"sp": ["r"], "sig": [SIG]}),
    "pairs": str([("sp", "r"), ("sig", SIG)]),
    "json field": json.dumps({"sig": SIG}),
    "coloured": f"\x1b[31msig={SIG}\x1b[0m",
    "account key": f"AccountName=devstore;AccountKey={KEY};EndpointSuffix=core.windows.net",
    "account key encoded": quote(f"AccountName=a;AccountKey={KEY};", safe=""),
    "account_key": f'account_key = "{KEY}"',
    "shared key": f"Authorization: SharedKey devstore:{SIG}",
    "bearer": f"Authorization: Bearer {JWT}",
    "bearer header": str({"Authorization": f"Bearer {JWT}"}),
    "bearer alone": f"bearer {JWT}",
    "opaque bearer": f"authorization: bearer {KEY}",
    "raw headers": str([(b"authorization", f"Bearer {KEY}".encode())]),
    "jwt": f"token={JWT} ok",
    "jwt escaped": f"\\n{JWT}",
    "api key": f"x-ms-apikey: {KEY}",
    "api key upper": f"X-MS-APIKEY:{KEY}",
    "api key header": str({"x-ms-apikey": KEY}),
    "api key raw": str([(b"x-ms-apikey", KEY.encode())]),
}
PARTS = [SIG[:12], SIG[-12:-1], KEY[:12], KEY[-12:-2], JWT[10:30], JWT[-12:]]

HARMLESS = [
    "Enter your name: ",
    ">>> ",
    "\r 50%|█████     | 5/10 [00:01<00:01]",
    "50%",
    "...",
    "Loading",
    "design=modern; config=1; sig = inspect.signature(f)",
    "f(sig=0.05, key=None)",
    "bearer of good news; Bearer token, then",
    "the sig, the key and the x-ms-apikey header",
    "heyJude is eyJ",
    "AccountKey=<key>",
    '"x-ms-apikey": "${input:key}"',
    "C:\\new\\sig\\text",
    "a & b &amp; c %",
]


@pytest.fixture(autouse=True)
def unregister_secrets() -> Iterator[None]:
    yield
    for secret in list(SECRETS._uses):
        while secret in SECRETS._uses:
            forget(secret)
    assert SECRETS._spellings == SECRETS._heads == SECRETS._sizes == {} == SECRETS._grams


def redact_in_chunks(pieces: list[str]) -> str:
    redactor = Redactor()
    return "".join(redactor.feed(piece) for piece in pieces) + redactor.finish()


@pytest.mark.parametrize("text", ANNOUNCED.values(), ids=ANNOUNCED)
def test_an_announced_secret_is_replaced_in_every_spelling(text: str) -> None:
    clean = redact(text)
    assert "[redacted]" in clean
    assert not [part for part in PARTS if part in clean]
    assert redact(clean) == clean


@pytest.mark.parametrize("text", ANNOUNCED.values(), ids=ANNOUNCED)
def test_a_secret_is_found_wherever_the_text_is_cut(text: str) -> None:
    text = f"before {text} after"
    whole = redact(text)
    assert whole.startswith("before ")
    assert whole.endswith(" after")
    for at in range(len(text) + 1):
        assert redact_in_chunks([text[:at], text[at:]]) == whole
    assert redact_in_chunks(list(text)) == whole


def test_names_of_parameters_and_other_text_stay() -> None:
    assert redact(URL + "&se=2026") == URL.partition("sig=")[0] + "sig=[redacted]&se=2026"
    connection = f"AccountName=a;AccountKey={KEY};EndpointSuffix=b"
    assert redact(connection) == "AccountName=a;AccountKey=[redacted];EndpointSuffix=b"
    assert redact(f"x-ms-apikey: {KEY}\nnext") == "x-ms-apikey: [redacted]\nnext"


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_output_is_neither_changed_nor_held_back(text: str) -> None:
    assert redact(text) == text
    assert Redactor().feed(text) == text


def test_a_short_value_is_hidden_only_in_a_query() -> None:
    assert redact("https://x/?sig=abc&b=1") == "https://x/?sig=[redacted]&b=1"
    assert redact("plot(sig=abc)") == "plot(sig=abc)"


FRAGMENTS = st.sampled_from(
    [
        *ANNOUNCED.values(),
        *("sig=", "&sig=", "sig", "sig%3D", "%73ig", "sig:", "\\u0026", "&amp;", "eyJ"),
        *("%", "%2", "%25", "\\", "&", "'", '"', "b'", "(", "[", "\n", "[redacted]"),
        *("AccountKey=", "x-ms-apikey:", "Bearer", "Authorization:", "eyJabcdefghijk."),
        *("0.05", "abcdefghijklm"),
        " ",
        SIG,
        KEY,
        "prefix" + SIG,
        "Enter a number",
    ]
) | st.text(max_size=8)


@examples(400)
@given(st.lists(FRAGMENTS, max_size=12), st.data())
def test_redacted_chunks_joined_equal_the_redacted_whole(
    parts: list[str], data: st.DataObject
) -> None:
    know(KEY)
    know("s3cret value")
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = redact(text)
    assert redact_in_chunks(pieces) == whole
    assert redact_in_chunks(list(text)) == whole
    assert redact(whole) == whole
    assert KEY not in whole


SECRET_TEXT = st.text(st.characters(codec="utf-8"), min_size=8, max_size=60) | st.binary(
    min_size=12, max_size=64
).map(lambda data: base64.b64encode(data).decode())


@examples(300)
@given(SECRET_TEXT, st.text(max_size=20), st.text(max_size=20), st.data())
def test_a_registered_secret_is_found_in_its_encodings(
    secret: str, before: str, after: str, data: st.DataObject
) -> None:
    whole = before + secret + after
    raw = whole.encode("utf-8", "surrogatepass")
    spelt = {
        secret: whole,
        quote(secret, safe=""): quote(whole, safe="", errors="surrogatepass"),
        quote(secret): quote(whole, errors="surrogatepass"),
        quote(quote(secret, safe=""), safe=""): quote(
            quote(whole, safe="", errors="surrogatepass"), safe=""
        ),
        json.dumps(secret)[1:-1]: json.dumps(whole),
        escape(secret): escape(whole),
    }
    know(secret)
    try:
        for spelling, text in spelt.items():
            assert spelling not in redact(text)
            cut = data.draw(st.integers(0, len(text)))
            assert redact_in_chunks([text[:cut], text[cut:]]) == redact(text)
        for text in (base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()):
            assert "[redacted]" in redact(text)
            assert redact_in_chunks(list(text)) == redact(text)
    finally:
        forget(secret)


def test_a_registered_secret_is_found_at_every_cut() -> None:
    know(SIG)
    for spelling in (SIG, quote(SIG, safe=""), base64.b64encode(SIG.encode()).decode()):
        for at in range(len(spelling) + 1):
            assert redact_in_chunks(["x " + spelling[:at], spelling[at:] + " y"]) == redact(
                f"x {spelling} y"
            )
        assert SIG[:8] not in redact(spelling)


def test_a_secret_stays_registered_until_its_last_use_ends() -> None:
    know("abcdefgh")
    know("abcdefgh")
    forget("abcdefgh")
    assert redact("-abcdefgh-") == "-[redacted]-"
    forget("abcdefgh")
    forget("abcdefgh")
    assert redact("-abcdefgh-") == "-abcdefgh-"


def test_a_short_secret_is_ignored() -> None:
    know("the")
    assert redact("the cat") == "the cat"


def test_a_very_long_secret_is_found() -> None:
    secret = "".join(f"{number:07x}" for number in range(3000))
    know(secret)
    assert secret[:50] not in redact(f"x{secret}y")
    assert len(redact(f"x{secret}y")) < 100


def test_the_registry_is_bounded() -> None:
    secrets = SecretRegistry(capacity=10)
    for number in range(100):
        secrets.register(f"secret number {number}")
    assert len(secrets) == 10
    assert secrets.redact("secret number 99")[0] == "[redacted]"
    assert secrets.redact("secret number 3.")[0] == "secret number 3."
    for number in range(100):
        secrets.unregister(f"secret number {number}")
    assert (len(secrets), secrets._grams, secrets._heads) == (0, {}, {})


def test_the_text_that_is_held_back_is_bounded() -> None:
    for text in (
        "sig=" + "%25" * 10_000,
        "eyJ" + "a" * 20_000,
        "sig: " + "a " * 9_000,
        "\\" * 9_000,
    ):
        redactor = Redactor()
        seen = 0
        for char in text:
            seen += len(redactor.feed(char))
            assert sum(len(stage._text) for stage in redactor._stages[1:]) < 10_000
        assert seen > 0


LONG = {
    "prose": "The quick brown fox; a design signal at 50% & more\n" * 20_000,
    "one word": "a" * 1_000_000,
    "one signature": "sig=" + "A" * 1_000_000,
    "jwt heads": "eyJ" * 340_000,
    "percents": "%25" * 340_000,
    "backslashes": "\\" * 1_000_000,
    "quotes": "sig" + "\"'" * 500_000,
    "names": "account_key" * 90_000,
    "base64": base64.b64encode(os.urandom(740_000)).decode(),
    "near misses": "sig= x bearer x " * 30_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_long_texts_take_linear_time(text: str) -> None:
    know(SIG)
    started = time.process_time()
    redact(text)
    assert time.process_time() - started < 10  # a generous bound: each takes a fifth of a second


def test_a_tree_is_redacted_with_its_keys_and_without_its_images() -> None:
    picture = base64.b64encode(b"\x89PNG" + SIG.encode()).decode()
    tree = {
        URL: [URL, ("a", {"b": f"x-ms-apikey: {KEY}"})],
        "data": {"image/png": picture, "text/plain": URL, "image/svg+xml": f"<a href='{URL}'/>"},
        "content": {"type": "image", "mimeType": "image/png", "data": picture},
        "false": {"image/png": URL},
        "bytes": URL.encode(),
        "headers": {"X-MS-APIKey": KEY, "Authorization": [f"Bearer {KEY}"]},
        "raw": [(b"x-ms-apikey", KEY.encode()), ["sig", SIG]],
        "number": 1,
        "none": None,
    }
    original = copy.deepcopy(tree)
    clean = redact_value(tree)
    assert tree == original
    assert clean["data"]["image/png"] == clean["content"]["data"] == picture
    assert clean["number"] == 1
    assert clean["none"] is None
    assert isinstance(next(iter(clean.values()))[1], tuple)
    assert not [part for part in PARTS if part in str(clean)]


def test_a_tree_that_is_too_deep_is_cut() -> None:
    tree: list[object] = [URL]
    for _ in range(5000):
        tree = [tree]
    assert "sig=" not in str(redact_value(tree))


class Logged:
    """A separate logger that writes to a string."""

    def __init__(self, *, on_handler: bool = False) -> None:
        self.stream = io.StringIO()
        self.records: list[logging.LogRecord] = []
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self.logger = logging.Logger("test", logging.DEBUG)  # noqa: LOG001 - it is used by this test only
        self.logger.addHandler(handler)
        install(handler if on_handler else self.logger)
        self.logger.addFilter(lambda record: self.records.append(record) or True)

    @property
    def everything(self) -> str:
        return self.stream.getvalue() + "".join(str(vars(record)) for record in self.records)


class Opaque:
    def __str__(self) -> str:
        return URL

    def __repr__(self) -> str:
        return "Opaque()"


def test_a_record_shows_no_secret_in_message_arguments_or_extras() -> None:
    logged = Logged()
    log = logged.logger
    log.info("fetching %s", URL)
    log.info("fetching " + URL)  # noqa: G003
    log.info("split sig=%s for %d files at 50%%", SIG, 3)
    log.info("%(url)s has %(count)03d", {"url": URL, "count": 7})
    log.info("%s and %r", Opaque(), Opaque())
    log.info(ValueError(URL))
    log.info("extra", extra={"url": URL, "headers": {"x-ms-apikey": KEY}})
    log.info("nothing secret: %s %5.1f", "a", 1.5)
    assert not [part for part in PARTS if part in logged.everything]
    assert "for 3 files at 50%\n" in logged.stream.getvalue()
    assert "has 007" in logged.stream.getvalue()
    assert logged.records[-1].args == ("a", 1.5)


def test_a_record_shows_no_secret_in_its_traceback_or_stack() -> None:
    logged = Logged(on_handler=True)
    try:
        raise ValueError(f"cannot open {URL}")  # noqa: TRY301
    except ValueError:
        logged.logger.exception("failed", stack_info=True)
    text = logged.stream.getvalue()
    assert "ValueError: cannot open https://acct.blob.core.windows.net" in text
    assert "Stack (most recent call last)" in text
    assert not [part for part in PARTS if part in text]


def test_a_traceback_without_a_secret_stays_an_exception() -> None:
    logged = Logged()
    try:
        raise ValueError("plain")  # noqa: TRY301
    except ValueError:
        logged.logger.exception("failed")
    assert logged.records[-1].exc_info
    assert "ValueError: plain" in logged.stream.getvalue()


def test_a_wrong_format_is_reported_without_the_secret(capsys: pytest.CaptureFixture[str]) -> None:
    logged = Logged()
    logged.logger.info("%d %s", URL, KEY + " AccountKey=" + KEY)
    assert "Logging error" in (err := capsys.readouterr().err)
    assert SIG[:12] not in err
    assert quote(SIG, safe="")[:12] not in err


def test_the_filter_is_installed_once_and_on_the_package_logger() -> None:
    from cci_plugins.common.log import logger

    install(logger)
    assert [type(other) for other in logger.filters].count(RedactingFilter) == 1


class FromElsewhere(Exception):  # noqa: N818
    def __str__(self) -> str:
        return URL


def chain() -> BaseException:
    try:
        try:
            raise KeyError(URL)  # noqa: TRY301
        except KeyError as error:
            raise OSError(2, "no such file", URL) from error
    except OSError as error:
        error.add_note(f"x-ms-apikey: {KEY}")
        error.request = {"url": URL}  # type: ignore[attr-defined]
        return error


@pytest.mark.parametrize(
    "error",
    [
        chain(),
        ValueError(URL, {"url": URL}, URL.encode()),
        FromElsewhere("x"),
        ExceptionGroup(f"many {URL}", [ValueError(URL), chain()]),
        ExceptionGroup("many", [FromElsewhere(), ValueError("a")]),
        SyntaxError("bad", ("f", 1, 1, f"x = '{URL}'")),
        RuntimeError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_shows_no_secret_anywhere(error: BaseException) -> None:
    error.__context__ = FromElsewhere("context")
    clean = redact_exception(error)
    shown = "".join(traceback.format_exception(clean)) + repr(clean) + str(clean)
    current: BaseException | None = clean
    while current is not None:
        shown += repr(current.args) + str(vars(current)) + str(current)
        current = current.__cause__ or current.__context__
    assert not [part for part in PARTS if part in shown]


def test_an_exception_keeps_its_identity_where_possible() -> None:
    error = chain()
    cause = error.__cause__
    assert redact_exception(error) is error
    assert error.__cause__ is cause
    assert error.errno == 2  # type: ignore[attr-defined]
    plain = ValueError("a", 1)
    assert redact_exception(plain).args == ("a", 1)


def test_exceptions_in_a_cycle_end() -> None:
    one, other = ValueError(URL), ValueError(URL)
    one.__context__, other.__context__ = other, one
    assert SIG[:12] not in str(redact_exception(one))


def test_the_public_names_are_complete() -> None:
    assert redaction.__all__ == sorted(redaction.__all__)
    assert redaction.REDACTED == "[redacted]"


class Broken(Exception):  # noqa: N818
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    @property
    def filename(self) -> str:
        raise RuntimeError("no name")


class Stubborn(ValueError):  # noqa: N818
    def __init__(self) -> None:
        super().__init__("stubborn")
        self.url = "a"

    def __setattr__(self, name: str, value: object) -> None:
        if name != "url" or value != "a":
            raise AttributeError(name)
        object.__setattr__(self, name, value)


def test_values_that_cannot_be_shown_or_changed_break_nothing() -> None:
    logged = Logged()
    logged.logger.info("broken %d", 1, extra={"broken": Broken()})
    logged.logger.info("%s", [object()])
    assert logged.stream.getvalue().startswith("INFO broken 1\n")
    assert redact_exception(Stubborn()).args == ("stubborn",)
    group = ExceptionGroup("many", [Broken()])
    assert "RuntimeError" not in str(redact_exception(group))


def test_notebook_images_of_several_lines_are_unchanged() -> None:
    lines = ["iVBORw0KGgo\n", "AAAA=="]
    assert redact_value({"image/png": lines}) == {"image/png": lines}
    assert redact_value({"image/png": [1]}) == {"image/png": [1]}


def test_a_redactor_may_pause_after_text_that_is_not_a_token() -> None:
    assert redact_in_chunks(["eyJ" + "a" * 5000, "b" * 10, " eyJ", " ", JWT]) == (
        "eyJ" + "a" * 5000 + "b" * 10 + " eyJ eyJ[redacted]"
    )
