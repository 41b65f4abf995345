"""An upload in chunks of any size, and forms that are not one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

import anyio

from cci_plugins.server.rest.errors import RequestError
from cci_plugins.server.rest.multipart import FileUpload

FORM = "multipart/form-data; boundary=b"
FIELD = b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\n1\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'


def read(content_type: str, body: bytes, size: int = 64) -> tuple[str, bytes]:
    async def stream():
        for start in range(0, len(body), size):
            yield body[start : start + size]

    async def main():
        upload = FileUpload(content_type, stream())
        return await upload.open(), b"".join([chunk async for chunk in upload.content()])

    return anyio.run(main)


@given(st.binary(max_size=200), st.integers(1, 300))
def test_the_first_file_is_read_whole_whatever_the_chunks(content, size):
    content = content.replace(b"\r\n--b", b"")
    body = FIELD + FILE + content + b"\r\n" + FILE.replace(b"a.csv", b"z") + b"other\r\n--b--\r\n"
    assert read(FORM, body, size) == ("a.csv", content)


@pytest.mark.parametrize("size", [1, 64, 10**6])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (FORM, b""),
        (FORM, FIELD + b"--b--\r\n"),
        (FORM, b"--b\r\n" + b"x: y\r\n" * 4000),
        (FORM, b"--b\r\nx: " + b"y" * 40_000),
        (FORM, FIELD * 1000 + FILE),
        (FORM, FILE + b"half"),
        ("multipart/form-data; boundary=" + "b" * 300, b"--" + b"b" * 300 + b"\r\n"),
        ("multipart/form-data; boundary=", b"--\r\n"),
        ("multipart/form-data", b"--" + b"b" * 300 + b"\r\n"),
        ("application/json", b'{"a": 1}\r\n'),
    ],
)
def test_a_body_without_a_complete_file_is_a_bad_request(content_type, body, size):
    with pytest.raises(RequestError) as caught:
        read(content_type, body, size)
    assert (caught.value.status, caught.value.code) == (400, "InvalidRequest")
