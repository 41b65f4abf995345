"""A session's report of a transfer is untrusted, so a false one does no harm."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import anyio
import pytest

from cci_plugins.common.limits import Limits
from cci_plugins.errors import (
    ConfigurationError,
    FileTooLargeError,
    FileTransferError,
    PoolUnavailableError,
)
from cci_plugins.files import in_session_transfer
from cci_plugins.files.file_transfer import (
    FileOptions,
    FileTransfer,
    UnreachableError,
    check_report,
)
from cci_plugins.files.in_session_transfer import transfer_in_session
from cci_plugins.models import Execution, FileInfo, OutputEvent
from cci_plugins.pools.base import Capabilities, SessionPool

pytest.importorskip("azure.storage.blob")
blob = importlib.import_module("cci_plugins.files.blob")

pytestmark = pytest.mark.anyio
DIGEST = "0" * 64
KEY = "cGxhbnRlZC1rZXktb2YtYW4tYWNjb3VudA=="


class Hostile(SessionPool):
    """Sessions that know the marker, as they can, and print what they like."""

    capabilities = Capabilities(name="hostile")

    def __init__(self, output: str, *, progress: str = "", size: int = 10) -> None:
        self.output, self.progress, self.size, self.calls = output, progress, size, 0

    async def has_files_api(self, _):
        return False

    async def execute(self, session_id, code, *, timeout, on_output=None, instance=None):
        self.calls += 1
        marker = re.search(r"get_ipython\(\),'([0-9a-f]{32})'", code)[1]
        for text in self.progress.replace("MARK", marker).partition("\n"):
            on_output(OutputEvent("stdout", text))
        return Execution(stdout=self.output.replace("MARK", marker))

    async def list_files(self, session_id):
        return [FileInfo("a", self.size)]

    async def upload(self, *_):
        raise NotImplementedError

    async def download(self, *_):
        raise NotImplementedError
        yield

    async def delete_file(self, *_):
        raise NotImplementedError

    async def delete_session(self, *_):
        raise NotImplementedError

    async def list_sessions(self):
        return []

    async def start(self):
        pass

    async def aclose(self):
        pass


WRONG = [
    "",
    "MARK",
    "MARK{}\n\nMARK",
    "MARK[]\n\nMARK",
    "MARK1\n\nMARK",
    "MARKnull\n\nMARK",
    'MARK{"size": "x", "sha256": "x"}\n\nMARK',
    'MARK{"size": null, "sha256": null}\n\nMARK',
    'MARK{"size": 1e999, "sha256": "x"}\n\nMARK',
    'MARK{"size": NaN, "sha256": "x"}\n\nMARK',
    f'MARK{{"size": true, "sha256": "{DIGEST}"}}\n\nMARK',
    f'MARK{{"size": -1, "sha256": "{DIGEST}"}}\n\nMARK',
    f'MARK{{"size": {10**30}, "sha256": "{DIGEST}"}}\n\nMARK',
    f'MARK{{"size": {"9" * 5000}, "sha256": "{DIGEST}"}}\n\nMARK',
    'MARK{"size": 5, "sha256": "../../etc"}\n\nMARK',
    'MARK{"size": 5, "sha256": {"a": 1}}\n\nMARK',
    'MARK{"failed": {"a": [1]}, "kind": ["missing"]}\n\nMARK',
    'MARK{"failed": null}\n\nMARK',
    f"MARK{'[' * 200_000}\n\nMARK",
    "MARK" + '{"a":' * 100_000 + "\n\nMARK",
]


def storage():
    return blob.BlobStorage("store", "c", key=KEY)


class RecordedDeletions:
    """A storage whose deletions are only recorded, and which is not reached."""

    def __init__(self, monkeypatch):
        self.deleted: list[str] = []

        async def delete(_, name):
            self.deleted.append(name)

        async def create(*_):
            return False

        monkeypatch.setattr(blob.BlobStorage, "delete", delete)
        monkeypatch.setattr(blob.BlobStorage, "_create", create)


@pytest.mark.parametrize("output", WRONG, ids=lambda output: ascii(output[:40]))
async def test_a_malformed_report_is_one_plain_error(output, tmp_path, monkeypatch):
    deletions = RecordedDeletions(monkeypatch)
    bridge = FileTransfer(
        Hostile(output), limits=Limits(inline_bytes=1), options=FileOptions(storage())
    )
    with pytest.raises(FileTransferError):
        await bridge.download("s", "a", tmp_path / "a", lambda _: None)
    assert len(deletions.deleted) == 1
    assert not (tmp_path / "a").exists()


async def test_a_file_that_is_larger_than_listed_is_refused(tmp_path, monkeypatch):
    RecordedDeletions(monkeypatch)
    limits = Limits(inline_bytes=1, staged_bytes=1000)
    output = f'MARK{{"size": 1001, "sha256": "{DIGEST}"}}\n\nMARK'
    bridge = FileTransfer(Hostile(output), limits=limits, options=FileOptions(storage()))
    with pytest.raises(FileTooLargeError):
        await bridge.download("s", "a", tmp_path / "a", lambda _: None)


async def test_a_session_that_reports_no_network_changes_only_its_own_route(tmp_path, monkeypatch):
    RecordedDeletions(monkeypatch)
    output = 'MARK{"failed": "no way", "kind": "unreachable"}\n\nMARK'
    bridge = FileTransfer(
        Hostile(output, size=1 << 40), limits=Limits(), options=FileOptions(storage())
    )
    bridge._limits = Limits(staged_bytes=1 << 41)
    with pytest.raises(FileTooLargeError):
        await bridge.download("hostile", "a", tmp_path / "a", lambda _: None)
    assert await bridge._choose_route("another", 1 << 30) == "blob"
    with pytest.raises(FileTooLargeError):
        await bridge._choose_route("hostile", 1 << 30)


async def test_a_transfer_that_never_ends_is_ended(monkeypatch):
    pool = Hostile('MARK{"more": 1}\n\nMARK')
    with anyio.fail_after(60), pytest.raises(FileTransferError, match="in time"):
        await transfer_in_session(
            pool, "s", {"verb": "get", "url": "u", "name": "a"}, lambda _: None
        )
    assert pool.calls == in_session_transfer.MAX_CALLS


def test_a_long_message_of_a_session_is_cut():
    with pytest.raises(FileTransferError) as caught:
        check_report({"failed": "x" * 10_000}, "a")
    assert len(str(caught.value)) < 300
    with pytest.raises(UnreachableError):
        check_report({"failed": "", "kind": "unreachable"}, "a")


@pytest.mark.parametrize(
    "account",
    [
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY};EndpointSuffix=x",
        f"https://store.blob.core.windows.net/?sig={KEY}",
        f"https://u:{KEY}@store.blob.core.windows.net",
        f"https://[{KEY}",
        f"https://store.example:{KEY}/",
        "\u00e9",
    ],
)
def test_an_invalid_account_is_not_shown(account):
    with pytest.raises(ConfigurationError) as caught:
        blob.BlobStorage(account, "c")
    assert "cGxhbnRl" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


def test_an_invalid_key_is_refused_at_once_and_not_shown():
    with pytest.raises(ConfigurationError) as caught:
        blob.BlobStorage("store", "c", key="planted, not a key!")
    assert "planted" not in str(caught.value)


def test_every_size_has_a_lifetime():
    for size in (-(10**40), -1, 0, 10**400):
        assert blob.MIN_LIFETIME <= blob.compute_lifetime(size) <= blob.MAX_LIFETIME


def test_a_storage_does_not_show_its_key(tmp_path: Path):
    assert "planted" not in repr(storage())
    assert KEY not in repr(storage())


async def test_a_transfer_is_tried_again_from_its_start_a_few_times() -> None:
    class Failing(Hostile):
        async def execute(self, *arguments: object, **options: object) -> Execution:  # type: ignore[override]
            self.calls += 1
            raise PoolUnavailableError("it cannot be reached")

    pool = Failing("")
    with pytest.raises(FileTransferError, match="the session did not move the file: it cannot"):
        await transfer_in_session(pool, "session", {"name": "a"}, lambda _: None)
    assert pool.calls == in_session_transfer.MAX_TRIES
