"""Wheels from a host of another machine: nothing that arrives is trusted."""

from __future__ import annotations

import base64
import hashlib
import io
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.local.packages.received import ByteBudget, WheelUpload
from cci_plugins.pools.package_exchange import WheelFile, WheelPart

NAME = "cci_sent-1.0-py3-none-any.whl"
LIMIT = 100_000


def build_wheel(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            wheel.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def receive(folder: Path, name: str, content: bytes, **changes: Any) -> None:
    """Receive a wheel, compare it with the list, and unpack it."""
    sent, target = folder / "sent", folder / "target"
    sent.mkdir()
    target.mkdir()
    upload = WheelUpload(sent, ByteBudget(LIMIT, "a session"))
    data = base64.b64encode(content).decode()
    upload.add(WheelPart(upload=upload.name, name=name, at=0, data=data))
    listed = {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    upload.check([WheelFile.model_validate(listed | changes)])
    upload.unpack(target)


GOOD = build_wheel({"cci_sent.py": b"VALUE = 1\n"})


@pytest.mark.parametrize(
    ("name", "content", "changes", "reason"),
    [
        ("../x-1.0-py3-none-any.whl", GOOD, {}, "is not the name of a wheel"),
        ("x.tar.gz", GOOD, {}, "is not the name of a wheel"),
        (NAME, GOOD, {"size": 3}, "are not those of the list"),
        (NAME, GOOD, {"sha256": "0" * 64}, "has changed on the way"),
        (NAME, b"no archive", {}, "cannot be unpacked as a wheel"),
        (NAME, build_wheel({"../evil.py": b""}), {}, "cannot be unpacked as a wheel"),
        (NAME, build_wheel({"/evil.py": b""}), {}, "cannot be unpacked as a wheel"),
        (
            NAME,
            build_wheel({"link": b"/etc/passwd"}, stat.S_IFLNK | 0o777),
            {},
            "cannot be unpacked as a wheel",
        ),
        (NAME, build_wheel({"big": bytes(2 * LIMIT)}), {}, "may have 100,000 bytes in all"),
        (NAME, bytes(2 * LIMIT), {}, "may have 100,000 bytes in all"),
    ],
    ids=[
        *("another folder", "no wheel", "another size", "another hash", "no archive"),
        *("above its folder", "absolute", "a link", "much in little", "too large"),
    ],
)
def test_what_is_no_whole_wheel_of_the_list_is_refused(
    tmp_path: Path, name: str, content: bytes, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        receive(tmp_path, name, content, **changes)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {NAME, "big"}


def test_a_whole_wheel_is_unpacked(tmp_path: Path) -> None:
    receive(tmp_path, NAME, GOOD)
    assert (tmp_path / "target" / "cci_sent.py").read_text() == "VALUE = 1\n"
