"""Cases of the troubleshooting page: checkpoints."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cci_plugins import Checkpoint, ErrorInfo, Execution, FileOptions
from cci_plugins.sync import CodeInterpreter, Session
from cci_plugins.testing import FakeSessionPool

from .cases import happens

Change = Callable[[Path], object]


@happens("the checkpoint ... has expired: it was saved on ..., and its storage kept it until ...")
def _(*_: object) -> object:
    return _restore("checkpoints/20260101T000000Z-30d-0123456789abcdef")


@happens("the checkpoint ... is missing or incomplete in ...")
def _(*_: object) -> object:
    return _restore("checkpoints/20260101T000000Z-0123456789abcdef")


@happens("the checkpoint ... is damaged: ...")
def _(*_: object) -> object:
    def change(folder: Path) -> None:
        (folder / "file-000000").write_text("8")

    return _save_and_restore(change=change)


@happens("cannot replay: ...")
def _(*_: object) -> object:
    return _save_and_restore(Execution(error=ErrorInfo("KeyError", "'x'")), replay=[1])


@happens("... failed in the replay: ...")
def _(*_: object) -> object:
    failed = Execution(error=ErrorInfo("KeyError", "'x'"), status="failed")
    return _save_and_restore(Execution(), failed, replay=[1])


@happens(
    "the container ... is for files on their way, which are deleted after a day: a checkpoint "
    "needs another one"
)
def _(*_: object) -> object:
    blob = pytest.importorskip("cci_plugins.files.blob")
    storage = blob.BlobStorage("anaccount", "cci-files")
    with CodeInterpreter(FakeSessionPool(), files=FileOptions(storage=storage)) as interpreter:
        return interpreter.session("alice").save(storage)


@happens("no storage for checkpoints is configured")
def _(*_: object) -> object:
    with CodeInterpreter(FakeSessionPool()) as interpreter:
        return interpreter.session("alice").save()


def _restore(checkpoint: str) -> object:
    with CodeInterpreter(FakeSessionPool()) as interpreter:
        return interpreter.session("alice").restore(checkpoint)


def _save_and_restore(
    *executions: Execution, replay: list[int] | None = None, change: Change = lambda _: None
) -> object:
    """Save a session with a file and a run, and restore it in another one."""
    with (
        tempfile.TemporaryDirectory() as folder,
        CodeInterpreter(FakeSessionPool(*executions)) as interpreter,
    ):
        checkpoint = _save(interpreter.session("alice"), folder)
        change(Path(checkpoint.location))
        return interpreter.session("bob").restore(checkpoint, replay=replay or ())


def _save(session: Session, folder: str) -> Checkpoint:
    session.files.upload(b"7", name="total.txt")
    session.run_code("1")
    return session.save(folder)
