"""The installed package as a wheel, so that an image gets exactly this version of it.

An index may not have it, for example a development version. The wheel is made from the files that
the installation recorded, with their hashes written again.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from cci_plugins.errors import ConfigurationError

_NAME = "cci-plugins"
_ORIGIN = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip file, for the same bytes every time
_META_FILES = ("METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE")


def pack_wheel() -> tuple[str, bytes]:
    """Return the name and the content of a wheel of the installed package.

    Raises:
        ConfigurationError: The installation does not record its files.
    """
    try:
        installed = distribution(_NAME)
    except PackageNotFoundError:
        raise _build_error() from None
    version = installed.version
    folder = f"cci_plugins-{version}.dist-info"
    files = dict(sorted(_read_files(installed, folder).items()))
    if "cci_plugins/__init__.py" not in files or f"{folder}/METADATA" not in files:
        raise _build_error()
    record = "".join(
        f"{name},sha256={_compute_digest(content)},{len(content)}\n"
        for name, content in files.items()
    )
    files[f"{folder}/RECORD"] = f"{record}{folder}/RECORD,,\n".encode()
    return f"cci_plugins-{version}-py3-none-any.whl", _pack(files)


def _read_files(installed: Distribution, folder: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in installed.files or ():
        name = entry.as_posix()
        is_code = name.startswith("cci_plugins/") and "__pycache__" not in entry.parts
        if is_code and not name.endswith(".pyc"):
            found[name] = entry.read_binary()
    for name in _META_FILES:
        text = installed.read_text(name)
        if text is not None:
            found[f"{folder}/{name}"] = text.encode()
    return found


def _pack(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _ORIGIN)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return packed.getvalue()


def _compute_digest(content: bytes) -> str:
    digest = hashlib.sha256(content).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _build_error() -> ConfigurationError:
    return ConfigurationError(
        "this installation does not record its files, so no image can be built from it",
        hint="name an image by --image, or install cci-plugins with pip or uv",
    )
