"""Helpers for tests of provisioning against the fake cloud."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cci_plugins.provisioning import Azure, Deployment, Options, Progress, Run, image, up

from ._cloud import Cloud, Running, running
from ._cloud.values import SUBSCRIPTION

GROUP = "group"


class Place(NamedTuple):
    """A fake cloud, and the `Azure` that reaches it."""

    running: Running
    azure: Azure

    @property
    def cloud(self) -> Cloud:
        return self.running.cloud


_pack = image._pack_archive
_archives: dict[int, bytes] = {}


def _pack_once(files: dict[str, bytes]) -> bytes:
    """Pack the same files once. It takes longer than all requests of a deployment."""
    key = hash(tuple(sorted(files.items())))
    if key not in _archives:
        _archives[key] = _pack(files)
    return _archives[key]


def options(**more: Any) -> Options:
    return Options(**({"subscription": SUBSCRIPTION, "resource_group": GROUP} | more))


@contextmanager
def open_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(image, "_pack_archive", _pack_once)
    with running(folder) as cloud:
        monkeypatch.setenv("SSL_CERT_FILE", str(cloud.ca))  # for the pool's own requests
        credential = cloud.credential()
        azure = Azure(
            credential=credential,
            endpoint=cloud.url,
            polling=timedelta(milliseconds=5),
            patience=timedelta(seconds=30),
            settling=timedelta(seconds=20),
            ca=cloud.ca,
        )
        try:
            yield Place(cloud, azure)
        finally:
            credential.close()
        assert cloud.cloud.wrong == []


async def collect_progress(run: Run[Any]) -> list[Progress]:
    return [progress async for progress in run]


async def deploy(place: Place, wanted: Options, **more: Any) -> Deployment:
    """Deploy without the smoke test."""
    return await up(wanted, azure=place.azure, **({"try_out": False} | more)).finish()


def names(cloud: Cloud) -> set[str]:
    """Return every resource except role assignments, as type and name."""
    return {
        f"{one['type'].rpartition('/')[2]} {one['name']}"
        for one in cloud.resources.values()
        if not one["type"].endswith("roleAssignments")
    }
