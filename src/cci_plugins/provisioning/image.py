"""Build context of the session image: the same bytes for the same files.

A digest of its content is the image's tag. Other packages give another tag, because pools cache
images by tag. The digest does not cover the archive, whose bytes differ by the version of zlib.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cci_plugins
from cci_plugins.errors import ConfigurationError

from .requirements import read_requirements
from .resources import DOCKERFILE
from .wheel import pack_wheel

REQUIREMENTS = "infra/container/requirements.txt"
_SOURCE_FILES = ("pyproject.toml", "azure.yaml", "README.md", "LICENSE", "CHANGELOG.md")
_SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "snapshots", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
)


@dataclass(frozen=True, slots=True)
class BuildContext:
    """Files, arguments and tag of an image to build.

    Attributes:
        archive: A `.tar.gz`.
        arguments: The Dockerfile's build arguments.
        tag: The image's tag.
    """

    archive: bytes = field(repr=False)
    arguments: dict[str, str]
    tag: str


def build_context(requirements: Path | None, *, base: str | None = None) -> BuildContext:
    """Pack the files of the session image, with the packages for its sessions.

    Args:
        requirements: A `requirements.txt`. The package's own when None.
        base: Base image. The Dockerfile's own when None.

    Raises:
        ConfigurationError: The file cannot be read, or the package has no image to build.
    """
    package = Path(cci_plugins.__file__).parent
    source = package.parents[1]
    is_source_tree = (source / DOCKERFILE).is_file() and (source / "pyproject.toml").is_file()
    root = source if is_source_tree else package
    if not (root / DOCKERFILE).is_file():
        raise ConfigurationError(
            "this installation does not contain the files of the session image",
            hint="name an image by --image",
        )
    files = dict(_iter_files(root, is_source_tree=is_source_tree))
    if requirements is not None:
        files[REQUIREMENTS] = read_requirements(requirements)
    arguments = {"VERSION": _find_version()}
    if not is_source_tree:
        name, wheel = pack_wheel()
        files[f"wheels/{name}"] = wheel
        arguments["PACKAGE"] = f"./wheels/{name}"
    if base is not None:
        arguments["BASE"] = base
    return BuildContext(_pack_archive(files), arguments, _compute_tag(files, arguments))


def _compute_tag(files: dict[str, bytes], arguments: dict[str, str]) -> str:
    parts = [(name, hashlib.sha256(files[name]).hexdigest()) for name in sorted(files)]
    text = repr([parts, sorted(arguments.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _find_version() -> str:
    try:
        return version("cci-plugins").partition("+")[0]
    except PackageNotFoundError:
        return "0.0.0"


def _iter_files(root: Path, *, is_source_tree: bool) -> Iterator[tuple[str, bytes]]:
    folders = ["infra/container"]
    if is_source_tree:
        folders = ["infra", "src/cci_plugins"]
        for name in _SOURCE_FILES:
            if (root / name).is_file():
                yield name, (root / name).read_bytes()
    for folder in folders:
        for current, inner, names in os.walk(root / folder):
            inner[:] = set(inner) - _SKIPPED_FOLDERS
            relative = Path(current).relative_to(root).as_posix()
            for name in names:
                path = Path(current, name)
                if path.is_file():
                    yield f"{relative}/{name}", path.read_bytes()


def _pack_archive(files: dict[str, bytes]) -> bytes:
    """Pack files as `.tar.gz`, without times, owners or anything else of this machine."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            archive.addfile(member, io.BytesIO(files[name]))
    return packed.getvalue()
