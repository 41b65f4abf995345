"""Checkpoints in Blob Storage: a real Azurite, and sessions of the embedded pool."""

import hashlib
import json
from datetime import timedelta

import anyio
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient

from cci_plugins import BlobStorage, CodeInterpreter, FileOptions, LocalSessionPool
from cci_plugins.core import workspace
from cci_plugins.errors import CheckpointError, CodeInterpreterError, ConfigurationError
from cci_plugins.files import checkpoint_blobs, checkpoints
from cci_plugins.testing import FakeSessionPool

from ._azurite import CONTAINER, KEY, SignedIn, running_azurite

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
OTHER, DAMAGED = "cci-checkpoints", "cci-damaged"


@pytest.fixture(scope="module")
def azurite(tmp_path_factory):
    with running_azurite(tmp_path_factory.mktemp("azurite")) as running:
        with open_container(running) as container:
            container.create_container()
        yield running


def open_container(azurite, name=OTHER):
    return ContainerClient(azurite.url, name, credential=KEY, connection_verify=str(azurite.ca))


def storage_of(azurite, name=OTHER):
    return BlobStorage(azurite.url, name, credential=SignedIn(), ca_file=azurite.ca)


def list_blobs(azurite):
    """List the blobs of checkpoints. The workspaces of other tests are in the same container."""
    with open_container(azurite) as container:
        names = container.list_blob_names()
        return sorted(name for name in names if not name.startswith("workspace-"))


async def test_a_conversation_comes_back_from_blob_storage(azurite):
    """One session for all that needs a kernel."""
    storage = storage_of(azurite)
    pool = LocalSessionPool(ready_sessions=0, preload=())
    files = FileOptions(checkpoints=storage)
    before = set(list_blobs(azurite))
    with anyio.fail_after(100):
        async with CodeInterpreter(pool, files=files) as interpreter:
            session = interpreter.session("alice")
            await session.files.upload(b"a,b", name="in.csv")
            await session.run_code(
                "open('.out', 'wb').write(bytes(1000)); open('big', 'w').write('x' * 3_000_000)"
            )
            checkpoint = await session.save(retention=timedelta(days=7))
            assert "sig=" not in checkpoint.location + repr(checkpoint)
            assert checkpoint.expires_at - checkpoint.created_at == timedelta(days=7)
            await session.restore(checkpoint)  # over what is there
            await session.delete()
            await session.restore(checkpoint.name)
            execution = await session.run_code("import os; sorted(os.listdir())")
    assert execution.text == "['.out', 'big', 'in.csv']"
    assert "restored files: .out, big, in.csv" in execution.notes[-1]
    name = checkpoint.name
    assert not await storage.is_empty()
    staging = storage_of(azurite, CONTAINER)
    assert await staging.is_empty()
    await staging.aclose()
    await storage.aclose()
    assert [blob for blob in list_blobs(azurite) if blob not in before] == [
        *(f"{name}/file-{index:06}" for index in range(3)),
        f"{name}/manifest.json",
        f"{name}/notebook.ipynb",
    ]
    async with CodeInterpreter(FakeSessionPool()) as interpreter:  # the next day
        with pytest.raises(ConfigurationError, match="is not configured"):
            await interpreter.session("bob").restore(checkpoint.location)
        other = storage_of(azurite, "other")
        with pytest.raises(ConfigurationError, match="the checkpoint is not in"):
            await interpreter.session("bob").restore(checkpoint.location, storage=other)
        session = interpreter.session("bob")
        await session.restore(checkpoint.location, storage=storage_of(azurite))
        assert await session.files.download("in.csv") == b"a,b"
        assert "in.csv" not in session.notebook()
        assert "'.out'" in json.loads(session.notebook())["cells"][0]["source"]


async def test_damage_expiry_and_wrong_containers_are_named_and_nothing_is_left(
    azurite, monkeypatch
):
    staging, storage = storage_of(azurite, CONTAINER), storage_of(azurite)
    options = FileOptions(staging, checkpoints=storage)
    async with CodeInterpreter(FakeSessionPool(), files=options) as interpreter:
        session = interpreter.session("alice")
        await session.files.upload(b"one", name="a")
        with pytest.raises(ConfigurationError, match="files on their way"):
            await session.save(storage_of(azurite, CONTAINER))
        before = list_blobs(azurite)
        with pytest.raises(CodeInterpreterError, match="404"):
            await session.save(storage_of(azurite, "missing"))

        # a save that fails half way leaves no blob
        real, count = checkpoint_blobs.transfer_locally, [0]

        async def fail_later(job, on_progress):
            count[0] += 1
            if count[0] == 3:
                raise CodeInterpreterError("the line is cut")
            return await real(job, on_progress)

        monkeypatch.setattr(checkpoint_blobs, "transfer_locally", fail_later)
        with pytest.raises(CodeInterpreterError, match="the line is cut"):
            await session.save()
        monkeypatch.undo()
        assert list_blobs(azurite) == before

        checkpoint = await session.save()
        assert checkpoint.expires_at - checkpoint.created_at == timedelta(days=30)
        with open_container(azurite) as container:
            blob = container.get_blob_client(f"{checkpoint.name}/file-000000")
            for content in (b"two", b"longer than it was"):
                blob.upload_blob(content, overwrite=True)
                with pytest.raises(CheckpointError, match="has another size or hash"):
                    await session.restore(checkpoint)
            blob.delete_blob()
            with pytest.raises(CheckpointError, match="missing or incomplete"):
                await session.restore(checkpoint)
            with pytest.raises(ResourceNotFoundError):
                blob.get_blob_properties()
        assert await session.files.download("a") == b"one"
        late = checkpoint.created_at + timedelta(days=31)
        monkeypatch.setattr(checkpoints, "get_now", lambda: late)
        with pytest.raises(CheckpointError, match="has expired: it was saved on"):
            await session.restore(checkpoint)
        with pytest.raises(CheckpointError, match="has expired"):
            await session.restore(checkpoint.name)


async def list_times(azurite):
    with open_container(azurite) as container:
        blobs = [one for one in container.list_blobs() if one.name.startswith("workspace-")]
    return {one.name.rpartition("/")[2]: one.last_modified for one in blobs}


async def run_once(storage, code):
    """Run code as another program does, with another pool. Return what happened."""
    pool = LocalSessionPool(isolation="process", ready_sessions=0, preload=())
    async with CodeInterpreter(pool, workspace=storage) as interpreter:
        return await interpreter.session("alice").run_code(code)


LIST = "import os; sorted(os.listdir())"


async def test_a_workspace_in_blob_storage_returns_and_is_written_again_in_time(
    azurite, monkeypatch
):
    storage = storage_of(azurite)
    pool = LocalSessionPool(isolation="process", ready_sessions=0, preload=())
    async with CodeInterpreter(pool, workspace=storage) as interpreter:
        session = interpreter.session("alice")
        await session.files.upload(b"a,b", name="in.csv")
        await session.run_code("open('made', 'w').write('7')")
        first = await list_times(azurite)
        assert len(first) == 3
        await session.run_code("1")
        assert await list_times(azurite) == first  # nothing changed
        now = checkpoints.get_now()
        await anyio.sleep(1.1)  # the times of blobs are in seconds
        monkeypatch.setattr(workspace, "get_now", lambda: now + timedelta(days=16))
        await session.run_code("1")
        second = await list_times(azurite)
        assert all(second[name] > first[name] for name in first)
        await session.run_code("1")
        assert await list_times(azurite) == second
    execution = await run_once(storage_of(azurite), LIST)
    assert execution.text == "['in.csv', 'made']"
    assert any("uploaded again: in.csv, made" in note for note in execution.notes)
    assert await list_times(azurite) == second
    with pytest.raises(ConfigurationError, match="files on their way"):
        CodeInterpreter(
            FakeSessionPool(),
            files=FileOptions(storage_of(azurite, CONTAINER)),
            workspace=storage_of(azurite, CONTAINER),
        )


@pytest.mark.full
async def test_a_workspace_that_cannot_be_read_or_was_changed_is_named(azurite, monkeypatch):
    with open_container(azurite, DAMAGED) as container:
        container.create_container()
    await run_once(storage_of(azurite, DAMAGED), "open('in.csv', 'w').write('a,b')")
    await run_once(storage_of(azurite, DAMAGED), "open('made', 'w').write('7')")

    # a container that cannot be read stops the run before it starts, and loses nothing
    async def fail(job, on_progress):
        return {"failed": "the line is cut", "kind": "unreachable"}

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_blobs, "transfer_locally", fail)
        with pytest.raises(CodeInterpreterError, match="cannot be reached"):
            await run_once(storage_of(azurite, DAMAGED), "open('never', 'w')")
    assert (await run_once(storage_of(azurite, DAMAGED), LIST)).text == "['in.csv', 'made']"

    # a copy that is gone and one that was changed are named, and the rest comes back
    await run_once(storage_of(azurite, DAMAGED), "open('third', 'w').write('8')")
    seven, three = (hashlib.sha256(data).hexdigest() for data in (b"7", b"a,b"))
    with open_container(azurite, DAMAGED) as container:
        for name in container.list_blob_names():
            if name.endswith(f"/copy-{seven}"):
                container.delete_blob(name)
            if name.endswith(f"/copy-{three}"):
                container.upload_blob(name, b"a;b", overwrite=True)
    execution = await run_once(storage_of(azurite, DAMAGED), LIST)
    assert execution.text == "['third']"
    assert "the workspace has lost files: in.csv, made" in execution.notes
