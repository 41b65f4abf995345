"""Files in and out of real sandboxed sessions, by every route, with a real Azurite."""

import hashlib
import io
import os
import random
import ssl
import urllib.request
import zipfile
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.error import HTTPError

import anyio
import pytest

pytest.importorskip("jupyter_client")
pytest.importorskip("azure.storage.blob")
pytest.importorskip("trustme")

from tests.integration._azurite import KEY, running_azurite
from tests.integration._emulated import emulated
from tests.integration._proxy import proxied
from tests.integration.conftest import spec_of

from cci_plugins import CodeInterpreter
from cci_plugins.common.limits import Limits
from cci_plugins.errors import (
    AuthenticationError,
    ConfigurationError,
    FileTooLargeError,
    FileTransferError,
    IsolationError,
    SessionFileNotFoundError,
    TargetExistsError,
)
from cci_plugins.files.blob import BlobStorage, compute_lifetime
from cci_plugins.files.file_transfer import FileOptions
from cci_plugins.files.sas import SasPolicy
from cci_plugins.pools.local.isolation import choose
from cci_plugins.pools.local.pool import LocalSessionPool

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DIGEST = "import hashlib; print(hashlib.sha256(open({!r}, 'rb').read()).hexdigest())"


@pytest.fixture(scope="module")
def azurite(tmp_path_factory):
    with running_azurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
async def bubblewrap(anyio_backend):
    try:
        await choose("bwrap", spec_of())
    except IsolationError as error:
        pytest.skip(f"egress from a session needs bubblewrap: {error}")


@pytest.fixture(scope="module")
async def plain(anyio_backend):
    """An interpreter without storage, for tests that can share its session."""
    async with CodeInterpreter(LocalSessionPool(ready_sessions=0)) as interpreter:
        yield interpreter


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def request_url(azurite, url: str, data: bytes | None = None):
    """Return the status, body and headers that anyone with this URL gets."""
    context = ssl.create_default_context(cafile=str(azurite.ca))
    request = urllib.request.Request(url, data, {"x-ms-blob-type": "BlockBlob"})
    request.method = "GET" if data is None else "PUT"
    try:
        with urllib.request.urlopen(request, context=context) as answer:
            return answer.status, answer.read(), answer.headers
    except HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


@asynccontextmanager
async def staging(azurite, *, host: str | None = None, url: str | None = None, **options):
    """Provide an interpreter whose sessions reach Azurite, and that stages every file."""
    storage = azurite.storage(url=url, **options)
    pool = LocalSessionPool(egress=(host or azurite.host,), ready_sessions=0)
    files = FileOptions(
        storage, stage_from=0, fetch=SasPolicy(hosts=(azurite.host,), allow_private=True)
    )
    async with CodeInterpreter(pool, files=files) as interpreter:
        yield interpreter


@pytest.mark.quick("delegation")
@pytest.mark.parametrize("key", [None, KEY], ids=["delegation", "key"])
async def test_a_file_is_moved_by_sas_and_leaves_no_blob(azurite, tmp_path, key):
    data, progress = os.urandom(3 << 20), []
    (tmp_path / "big.bin").write_bytes(data)
    async with staging(azurite, key=key) as interpreter:
        files = interpreter.session("a").files
        info = await files.upload(tmp_path / "big.bin", on_progress=progress.append)
        assert (info.route, info.size, info.sha256) == ("blob", len(data), sha256(data))
        assert progress == sorted(progress)
        assert progress[-1] == len(data)
        execution = await interpreter.session("a").run_code(DIGEST.format("big.bin"))
        assert execution.stdout.strip() == sha256(data)
        assert (execution.files, execution.state) == ((), "kept")
        path = await files.download("big.bin", to=f"{tmp_path}/out/")
        assert path == tmp_path / "out" / "big.bin"
        assert path.read_bytes() == data
    assert azurite.blobs() == []


async def test_a_link_grants_its_permission_until_it_expires(azurite):
    def ask(url: str, data: bytes | None = None) -> int:
        return request_url(azurite, url, data)[0]

    storage = azurite.storage()
    try:
        async with storage.staged(10) as blob:
            write, read = await blob.link("cw"), await blob.link("r")
            assert ask(write.reveal(), b"0123456789") == 201
            assert ask(read.reveal()) == 200
            assert ask(read.reveal(), b"9876543210") == 403
            assert ask(write.reveal()) == 403
            assert ask(read.reveal().replace(blob.name, "another")) == 403
            short = await storage.link(blob.name, "r", timedelta(seconds=5))
            assert ask(short.reveal()) == 200
            with anyio.fail_after(20):
                while ask(short.reveal()) == 200:
                    await anyio.sleep(0.2)
            assert blob.name not in repr(storage)
        assert ask(read.reveal()) == 404
        assert storage._credential._source.asked <= 2  # one for the key, one for the deletion
    finally:
        await storage.aclose()


def test_a_link_lasts_by_the_size_of_the_file_and_at_most_an_hour():
    assert compute_lifetime(1) == pytest.approx(timedelta(minutes=10), abs=timedelta(seconds=1))
    assert compute_lifetime(600 << 20) == timedelta(minutes=20)
    assert compute_lifetime(1 << 50) == timedelta(hours=1)


@pytest.mark.full
async def test_a_session_keeps_no_trace_of_a_url(azurite):
    look = """
import gc
def traces():
    marker = 'devstore' + 'account1'
    for thing in gc.get_objects():
        for part in gc.get_referents(thing):
            if isinstance(part, (str, bytes)) and marker in str(part) and 'sig=' in str(part):
                yield part
print([str(part)[:300] for part in traces()], [name for name in dir() if name.startswith('_i')], In)
import pathlib
raw = [pathlib.Path('/proc/self', name).read_bytes() for name in ('cmdline', 'environ')]
print(any(b'sig=' in part for part in raw), sorted(map(str, pathlib.Path('/mnt/data').rglob('*'))))
"""
    async with staging(azurite) as interpreter:
        session = interpreter.session("a")
        await session.run_code("first = 1")
        await session.files.upload(b"x" * 5000, name="a.bin")
        await session.files.download("a.bin")
        with pytest.raises(SessionFileNotFoundError):
            await session.files.download("none.bin")
        execution = await session.run_code(look)
    lines = execution.stdout.splitlines()
    assert lines[0].startswith("[] ['_i', '_i1', '_i2', '_ih', '_ii', '_iii'] ['', 'first = 1', ")
    assert lines[1:] == ["False ['/mnt/data/a.bin']"]


class Moves:
    """Transfers whose connections break, with their outcomes counted."""

    def __init__(self, session, folder: Path, data: bytes) -> None:
        self.whole = self.failed = 0
        self._session, self._folder = session, folder
        self._source = folder / "source.bin"
        self._source.write_bytes(data)
        self._digest = sha256(data)

    async def move(self, number: int) -> None:
        try:
            if number % 2:
                path = self._folder / f"out-{number}.bin"
                await self._session.files.download("out.bin", to=path)
            else:
                info = await self._session.files.upload(self._source, name=f"in-{number}.bin")
                assert info.sha256 == self._digest
        except FileTransferError:
            self.failed += 1
        else:
            self.whole += 1


@pytest.mark.timeout(900)
@pytest.mark.full
async def test_broken_connections_leave_no_partial_file(azurite, tmp_path):
    count = 50
    chance = random.Random(20261123)
    data = os.urandom(6 << 20)
    async with proxied(azurite.port) as proxy:
        host = f"127.0.0.1:{proxy.port}"
        url = f"https://{host}/devstoreaccount1"
        async with staging(azurite, host=host, url=url) as interpreter:
            session = interpreter.session("a")
            await session.run_code(f"open('out.bin', 'wb').write({data[:1000]!r} * 6000)")
            moves = Moves(session, tmp_path, data)
            for number in range(count):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(moves.move, number)
                    for _ in range(chance.randrange(1, 4)):
                        await anyio.sleep(chance.uniform(0.002, 0.12))
                        proxy.reset()
            assert proxy.broken > 0.4 * count
            listed = {file.name: file.size for file in await session.files.list()}
            digests = await session.run_code(
                "import glob, hashlib\n"
                "def digest(name):\n"
                "    return hashlib.sha256(open(name, 'rb').read()).hexdigest()\n"
                "print({digest(name) for name in glob.glob('in-*')})"
            )
    assert moves.whole + moves.failed == count
    assert moves.whole >= 0.8 * count
    assert {size for name, size in listed.items() if name.startswith("in-")} == {len(data)}
    assert digests.stdout.strip() == str({sha256(data)})
    assert not [name for name in listed if "part" in name]
    outs = list(tmp_path.glob("out-*.bin"))
    assert {sha256(path.read_bytes()) for path in outs} == {sha256(data[:1000] * 6000)}
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert azurite.blobs() == []


@pytest.mark.quick("local")
@pytest.mark.parametrize("kind", ["local", "platform"])
async def test_a_run_reports_the_hashes_of_its_files(kind):
    code = "open('a.txt', 'w').write('hello'); open('b.bin', 'wb').write(bytes(17 << 20))"
    local = LocalSessionPool(ready_sessions=0)

    async def check(pool):
        async with CodeInterpreter(pool) as interpreter:
            execution = await interpreter.session("a").run_code(code)
        hashes = {file.name: file.sha256 for file in execution.files}
        assert hashes == {"a.txt": sha256(b"hello"), "b.bin": None}  # large ones are not read again

    if kind == "local":
        await check(local)
    else:
        async with emulated(local, kind=kind) as there:
            await check(there.client())


async def test_a_session_without_egress_gets_its_files_in_pieces(azurite, caplog):
    caplog.set_level("INFO", "cci_plugins")
    limits = Limits(inline_bytes=1000, pieces_bytes=1 << 20)
    async with (
        emulated(LocalSessionPool(ready_sessions=0), kind="platform") as there,
        CodeInterpreter(
            there.client(limits=limits),
            limits=limits,
            files=FileOptions(azurite.storage()),
        ) as interpreter,
    ):
        files = interpreter.session("a").files
        assert (await files.upload(b"1" * 900, name="small")).route == "inline"
        data = os.urandom(120_000)
        assert (await files.upload(data, name="large")).route == "pieces"
        assert await files.download("large") == data
        with pytest.raises(FileTooLargeError) as caught:
            await files.upload(b"1" * ((1 << 20) + 1), name="huge")
        assert "EgressEnabled" in caught.value.hint
        assert [file.name for file in await files.list()] == ["large", "small"]
    assert "sessions cannot reach the storage account" in caplog.text
    assert "sig=" not in caplog.text
    assert azurite.blobs() == []


async def test_without_storage_the_error_names_the_setting():
    limits = Limits(file_bytes=1000, pieces_bytes=1000)
    async with CodeInterpreter(LocalSessionPool(ready_sessions=0), limits=limits) as interpreter:
        with pytest.raises(FileTooLargeError) as caught:
            await interpreter.session("a").files.upload(b"1" * 1001, name="a")
        assert "AZURE_STORAGE_ACCOUNT" in caught.value.hint
        await interpreter.session("a").run_code("open('b', 'wb').write(b'1' * 1001)")
        with pytest.raises(FileTooLargeError) as caught:
            await interpreter.session("a").files.download("b")
        assert "AZURE_STORAGE_ACCOUNT" in caught.value.hint


@pytest.mark.quick("relayed")
@pytest.mark.parametrize("route", ["direct", "relayed"])
async def test_a_users_blob_is_fetched_by_the_session_or_by_this_machine(azurite, route):
    data = os.urandom(700_000)
    storage = azurite.storage()
    with azurite.container() as container:
        container.upload_blob("mine/report.bin", data)
    link = await storage.link("mine/report.bin", "r", timedelta(minutes=5))  # on this loop
    policy = SasPolicy(hosts=(azurite.host,), allow_private=True)
    egress = (azurite.host,) if route == "direct" else "none"
    pool = LocalSessionPool(egress=egress, ready_sessions=0)
    files = FileOptions(storage, fetch=policy)
    async with CodeInterpreter(pool, files=files) as interpreter:
        session = interpreter.session("a")
        info = await session.files.fetch(link)
        assert (info.name, info.route, info.sha256) == ("report.bin", route, sha256(data))
        execution = await session.run_code(DIGEST.format("report.bin"))
        assert execution.stdout.strip() == sha256(data)
        await session.run_code("import os; os._exit(1)")
        execution = await session.run_code(DIGEST.format("report.bin"))
        assert execution.stdout.strip() == sha256(data)
        assert "uploaded again: report.bin" in execution.notes
    with azurite.container() as container:
        container.delete_blob("mine/report.bin")


async def test_urls_of_other_hosts_are_refused(azurite):
    async with staging(azurite) as interpreter:
        files = interpreter.session("a").files
        for url in (
            "https://example.org/a.csv",
            f"http://127.0.0.1:{azurite.port}/a.csv",
            "file:///etc/passwd",
            "https://127.0.0.1@example.org/a.csv",
        ):
            with pytest.raises(FileTransferError):
                await files.fetch(url, name="a.csv")


async def test_a_shared_link_reads_one_copy_until_it_is_unshared(azurite, plain):
    async with staging(azurite) as interpreter:
        session = interpreter.session("a")
        await session.run_code("open('bericht ä.txt', 'w').write('hello')")
        shared = await session.files.share("bericht ä.txt", expires_in=timedelta(minutes=1))
        assert "sig=" not in f"{shared} {shared!r} {shared.url}"
        status, body, headers = request_url(azurite, shared.url.reveal())
        assert (status, body) == (200, b"hello")
        assert "bericht%20%C3%A4.txt" in headers["Content-Disposition"]
        await session.files.unshare(shared)
        assert azurite.blobs() == []
        with pytest.raises(FileTransferError, match="at most 1 day"):
            await session.files.share("bericht ä.txt", expires_in=timedelta(days=2))
    with pytest.raises(ConfigurationError, match="needs storage"):
        await plain.session("a").files.share("x")


async def test_every_kind_of_content_is_uploaded_again_after_a_loss(tmp_path):
    class Form:
        """An uploaded file as in web frameworks."""

        name = "form.txt"

        def __init__(self):
            self._left = [b"fo", b"rm"]

        async def read(self, size: int) -> bytes:
            return self._left.pop(0) if self._left else b""

    async def pieces():
        yield b"pie"
        yield b"ces"

    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x.txt").write_text("x")
    (folder / "link").symlink_to("/etc/passwd")
    async with CodeInterpreter(LocalSessionPool(ready_sessions=0)) as interpreter:
        session = interpreter.session("a")
        await session.files.upload(io.BytesIO(b"object"), name="object.txt")
        await session.files.upload(Form())
        await session.files.upload(pieces(), name="pieces.txt")
        assert (await session.files.upload(folder)).name == "folder.zip"
        with pytest.raises(FileTransferError, match="binary mode"):
            await session.files.upload(io.StringIO("text"), name="text.txt")
        read = "print(*(open(n).read() for n in ('object.txt', 'form.txt', 'pieces.txt')))"
        assert (await session.run_code(read)).stdout == "object form pieces\n"
        await session.run_code("import os; os._exit(1)")
        execution = await session.run_code(read)
        assert execution.stdout == "object form pieces\n"
        assert execution.notes[0].startswith("uploaded again: folder.zip, form.txt, ")
        names = "import zipfile; print(zipfile.ZipFile('folder.zip').namelist())"
        assert (await session.run_code(names)).stdout == "['sub/x.txt']\n"


async def test_a_folder_is_downloaded_as_a_zip(plain):
    session = plain.session("a")
    await session.run_code(
        "import os; os.makedirs('out/sub'); open('out/a.txt','w').write('a')\n"
        "open('out/sub/b.txt','w').write('b'); os.symlink('/etc/passwd', 'out/link')"
    )
    with zipfile.ZipFile(io.BytesIO(await session.files.download("out"))) as packed:
        assert packed.namelist() == ["out/a.txt", "out/sub/b.txt"]
        assert packed.read("out/sub/b.txt") == b"b"


async def test_a_download_replaces_a_file_only_on_request_and_follows_no_link(plain, tmp_path):
    files = plain.session("a").files
    await files.upload(b"new", name="a.txt")
    target = tmp_path / "a.txt"
    target.write_text("mine")
    with pytest.raises(TargetExistsError):
        await files.download("a.txt", to=tmp_path)
    assert target.read_text() == "mine"
    await files.download("a.txt", to=target, overwrite=True)
    assert target.read_text() == "new"
    secret = tmp_path / "secret"
    secret.write_text("secret")
    target.unlink()
    target.symlink_to(secret)
    with pytest.raises(TargetExistsError):
        await files.download("a.txt", to=target)
    await files.download("a.txt", to=target, overwrite=True)
    assert (secret.read_text(), target.is_symlink()) == ("secret", False)
    assert b"".join([piece async for piece in files.stream("a.txt")]) == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "secret"]


@pytest.mark.full
async def test_conversations_do_not_share_files_of_the_same_name(azurite):
    async with staging(azurite) as interpreter:

        async def talk(key: str) -> None:
            session, mine = interpreter.session(key), key.encode() * 1000
            await session.files.upload(mine, name="data.bin")
            await session.run_code(
                "data = open('data.bin', 'rb').read()[::-1]\nopen('data.bin', 'wb').write(data)"
            )
            assert await session.files.download("data.bin") == mine[::-1]

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(talk, f"conversation-{number}")


async def test_wrong_storage_settings_raise_errors_that_name_the_cause(azurite, tmp_path):
    wrong = BlobStorage(azurite.url, "no-such-container", key=KEY, ca_file=azurite.ca)
    away = BlobStorage("https://127.0.0.1:9/devstoreaccount1", "c", key=KEY, ca_file=azurite.ca)
    refused = BlobStorage(azurite.url, "cci-files", key="aW52YWxpZA==", ca_file=azurite.ca)
    for storage, text in ((wrong, "404"), (away, "cannot be reached"), (refused, "403")):
        pool = LocalSessionPool(egress=(azurite.host,), ready_sessions=0)
        async with CodeInterpreter(pool, files=FileOptions(storage, stage_from=0)) as interpreter:
            with pytest.raises(FileTransferError, match=text) as caught:
                await interpreter.session("a").files.upload(b"1", name="a")
            assert "sig=" not in str(caught.value)
    for account in ("http://store.example.org", "no account!", "https://u:p@x.example.org"):
        with pytest.raises(ConfigurationError):
            BlobStorage(account, "c")
    no_credential = BlobStorage(
        azurite.url, "cci-files", credential=_NoCredential(), ca_file=azurite.ca
    )
    with pytest.raises(AuthenticationError):
        await no_credential.link("a", "r", timedelta(minutes=1))
    await no_credential.aclose()


class _NoCredential:
    def get_token(self, *_):
        from azure.core.exceptions import ClientAuthenticationError

        raise ClientAuthenticationError("planted-text-with-a-tenant")


SEARCH = """
import re
pattern = re.compile(b's' + b'ig=[A-Za-z0-9%+/]{40,}')
found = 0
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
    for line in maps:
        span, rights = line.split()[:2]
        if rights.startswith('rw'):
            start, end = (int(one, 16) for one in span.split('-'))
            try:
                memory.seek(start)
                found += len(pattern.findall(memory.read(end - start)))
            except (OSError, ValueError, OverflowError):
                pass
print(found)
"""


@asynccontextmanager
async def open_pool(kind, host):
    local = LocalSessionPool(egress=(host,), ready_sessions=0, preload=())
    if kind == "embedded":
        yield local
        return
    async with emulated(local, kind=kind) as there:
        yield there.client()


@pytest.mark.quick("platform")
@pytest.mark.parametrize("kind", ["embedded", "platform"])
async def test_no_later_run_finds_a_signature_in_the_sessions_memory(kind, azurite):
    storage = azurite.storage()
    data = os.urandom(300_000)
    with azurite.container() as container:
        container.upload_blob(f"mine/{kind}.bin", data)
    link = await storage.link(f"mine/{kind}.bin", "r", timedelta(minutes=5))
    options = FileOptions(
        storage, stage_from=0, fetch=SasPolicy(hosts=(azurite.host,), allow_private=True)
    )
    async with (
        open_pool(kind, azurite.host) as pool,
        CodeInterpreter(pool, files=options, limits=Limits(inline_bytes=1)) as interpreter,
    ):
        session = interpreter.session("a")
        await session.run_code("first = 1")
        assert (await session.files.upload(data, name="a.bin")).route == "blob"
        assert await session.files.download("a.bin") == data
        assert (await session.files.fetch(link)).route == "direct"
        with pytest.raises(SessionFileNotFoundError):
            await session.files.download("none.bin")
        found = await session.run_code(SEARCH)
        assert found.stdout.strip() == "0"
        left = await session.run_code("print(get_ipython().cci_transfers, first)")
        assert left.stdout.strip() == "{} 1"
    with azurite.container() as container:
        container.delete_blob(f"mine/{kind}.bin")
