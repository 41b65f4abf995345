"""Data URLs as RFC 2397 and browsers read them."""

import pytest

from cci_plugins import CodeInterpreter
from cci_plugins.common.data_url import is_data_url, parse_data_url
from cci_plugins.errors import FileTransferError
from cci_plugins.testing import FakeSessionPool


@pytest.mark.parametrize(
    ("url", "media_type", "content", "name"),
    [
        ("data:text/csv;base64,YSxiCjEsMgo=", "text/csv", b"a,b\n1,2\n", "data.csv"),
        ("DATA:text/csv;charset=utf-8;BASE64,YSxiCjEsMgo", "text/csv", b"a,b\n1,2\n", "data.csv"),
        ("data:,a%2Cb%0A", "text/plain", b"a,b\n", "data.txt"),
        ("data:application/json,{%22a%22:1}", "application/json", b'{"a":1}', "data.json"),
        ("data:image/png;base64,iVBO%0ARw==", "image/png", b"\x89PNG", "data.png"),
        ("data:application/x-unknown,1", "application/x-unknown", b"1", "data"),
        ("data:;base64,", "text/plain", b"", "data.txt"),
        ("data:text/plain,über", "text/plain", "über".encode(), "data.txt"),
    ],
)
def test_the_content_is_decoded(url: str, media_type: str, content: bytes, name: str) -> None:
    assert is_data_url(url)
    data = parse_data_url(url)
    assert (data.media_type, data.content, data.file_name) == (media_type, content, name)


@pytest.mark.parametrize(
    "url", ["data:text/csv;base64", "data:text/csv;base64,a*b", "data:x;base64,a"]
)
def test_a_malformed_one_is_refused_with_a_hint(url: str) -> None:
    with pytest.raises(FileTransferError) as caught:
        parse_data_url(url)
    assert caught.value.hint


@pytest.mark.parametrize("url", ["https://a/b", "dat", "", None, b"data:,a", "database:,a"])
def test_other_values_are_no_data_urls(url: object) -> None:
    assert not is_data_url(url)


@pytest.mark.anyio
async def test_a_session_fetches_a_data_url() -> None:
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        session = interpreter.session("a")
        info = await session.files.fetch("data:text/csv;base64,YSxiCjEsMgo=")
        assert (info.name, info.size) == ("data.csv", 8)
        await session.files.fetch("data:,1", name="one.txt")
        assert await session.files.download("data.csv") == b"a,b\n1,2\n"
        assert await session.files.download("one.txt") == b"1"
