"""Every heading of the troubleshooting page is the text of an error that a test causes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from tests.integration._azure import listening
from tests.integration._foundry import MODEL, PROJECT_ID, analyst, serving_foundry

from cci_plugins import CodeInterpreter as AsyncCodeInterpreter
from cci_plugins import (
    CustomSessionPool,
    Execution,
    Limits,
    LocalSessionPool,
    PlatformSessionPool,
    SandboxLimits,
)
from cci_plugins.azure.credentials import Bearer
from cci_plugins.cli.run import load_settings
from cci_plugins.cli.saving import match_files
from cci_plugins.common.file_names import validate_name
from cci_plugins.common.settings import Settings
from cci_plugins.errors import CodeInterpreterError, SessionLostError
from cci_plugins.files.source import PathSource
from cci_plugins.mcp_client.failures import build_error_from_status
from cci_plugins.pools.base import Capabilities
from cci_plugins.pools.local.isolation import KernelSpec, selection, uids
from cci_plugins.pools.local.isolation.landlock import LandlockIsolation
from cci_plugins.pools.run_exchange import RelayedQuery, RunQuery
from cci_plugins.sync import CodeInterpreter
from cci_plugins.testing import FakeSessionPool

from . import (  # noqa: F401 - they register their cases
    azure_bound_cases,
    checkpoint_cases,
    console_cases,
    long_run_cases,
    package_cases,
    troubleshooting_cases,
)
from .blocks import ROOT
from .cases import CASES, happens, record_log

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
STUBBORN = """
import time
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


@pytest.fixture(scope="module")
def interpreter() -> Iterator[CodeInterpreter]:
    pool = LocalSessionPool(max_sessions=1, limits=SandboxLimits(runaway_bytes=1 << 20))
    with CodeInterpreter(pool) as interpreter:
        yield interpreter


def without(module: str, code: str) -> str:
    """Return the stderr of a process that lacks a module."""
    hidden = f"import sys; sys.modules[{module!r}] = None; {code}"
    done = subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stderr


def message_of(interpreter: CodeInterpreter, code: str, seconds: float = 60) -> str:
    execution = interpreter.run_code(code, timeout=timedelta(seconds=seconds))
    assert execution.error is not None
    return execution.error.message


@happens("the command line needs typer")
def _(*_: object) -> object:
    return without("typer", "from cci_plugins.cli import main; main([])")


@happens("the embedded pool needs ...")
def _(*_: object) -> object:
    return without("jupyter_client", "from cci_plugins import LocalSessionPool")


@happens("AZURE_SESSION_POOL_MCP_KEY is not set, but the rest of a session pool's settings is")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_ENDPOINT", "http://127.0.0.1:1/mcp")
    return Settings.read()


@happens("a Microsoft Entra token cannot be sent to ... by http, without encryption")
def _(*_: object) -> object:
    return AsyncCodeInterpreter.azure("http://pool.example", credential="a-token")


@happens(
    "no isolation works on this machine, so code from a model would run with your files "
    "and your network ..."
)
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(selection, "_list_backends", lambda **_: {})
    monkeypatch.setattr(selection, "_selections", {})
    return anyio.run(selection.choose, "auto", KernelSpec(Path(sys.executable), "00"))


@happens("this process ignores SIGCHLD, so the end of a session cannot be noticed")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
    return anyio.run(selection.choose, "auto", KernelSpec(Path(sys.executable), "00"))


@happens("this user namespace maps no user id for a session, so its code would run as root")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(uids, "_read_map", lambda _: ((0, 1),))
    return LandlockIsolation(SandboxLimits())._allocate_uid()


@happens("all ... sessions of the embedded pool are in use")
def _(interpreter: CodeInterpreter, _: object) -> object:
    interpreter.run_code("1")
    return interpreter.session("another").run_code("1")


@happens("the code ran longer than ... s and was interrupted; variables and files are kept")
def _(interpreter: CodeInterpreter, _: object) -> object:
    return message_of(interpreter, "import time; time.sleep(60)", seconds=0.5)


@happens(
    "the code ran longer than ... s and did not stop when interrupted, so the session was ended; "
    "variables and files are gone"
)
def _(interpreter: CodeInterpreter, _: object) -> object:
    return message_of(interpreter, STUBBORN, seconds=0.5)


@happens("the session ended while the code ran: ...; variables and files are gone")
def _(interpreter: CodeInterpreter, _: object) -> object:
    return message_of(interpreter, "import os; os._exit(3)")


@happens("the code produced too much output and ...")
def _(interpreter: CodeInterpreter, _: object) -> object:
    return message_of(interpreter, "while True: print('x' * 1000)")


@happens("input() is not available here: nobody can answer; put the value in the code")
def _(interpreter: CodeInterpreter, _: object) -> object:
    return message_of(interpreter, "input('name? ')")


@happens("this CodeInterpreter is closed")
def _(*_: object) -> object:
    with CodeInterpreter.local() as closed:
        pass
    return closed.run_code("1")


@happens("this CodeInterpreter needs 'async with'; cci_plugins.sync has one for 'with'")
def _(*_: object) -> object:
    with AsyncCodeInterpreter(FakeSessionPool()):
        pass


@happens("a session key must be a str, an int or a UUID, not ...")
def _(interpreter: CodeInterpreter, _: object) -> object:
    return interpreter.session(1.5)  # type: ignore[arg-type]


@happens("timeout must be more than 0 and at most 31536000 seconds, not ...")
def _(interpreter: CodeInterpreter, _: object) -> object:
    return interpreter.run_code("1", timeout=0)


@happens("CCI_TIMEOUT: ... is not a number of seconds from 0.1 to 31536000")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("CCI_TIMEOUT", "inf")
    return Settings.read()


@happens("the code has ... bytes as a message, and at most ... can be sent")
def _(interpreter: CodeInterpreter, _: object) -> object:
    return interpreter.run_code("#" * 50_000_000)


@happens("... changed while it was uploaded")
def _(*_: object) -> object:
    with tempfile.NamedTemporaryFile() as file:
        source = PathSource(Path(file.name))
        file.write(b"more")
        file.flush()

        async def read() -> list[bytes]:
            return [chunk async for chunk in source.chunks()]

        return anyio.run(read)


@happens(
    "this process was forked and has a session of its own; "
    "variables and files of earlier calls are gone"
)
def _(*_: object) -> object:
    interpreter = CodeInterpreter(FakeSessionPool())
    interpreter.run_code("1")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, str(interpreter.run_code("1").notes).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    return os.read(reader, 10_000).decode()


@happens("... is not a safe file name")
def _(*_: object) -> object:
    return validate_name("../secret")


@happens("the session has no file ...")
def _(interpreter: CodeInterpreter, _: object) -> object:
    return interpreter.session().files.download("missing.csv")


@happens("--isolation works only with the embedded pool, but a session pool is configured")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_ENDPOINT", "http://127.0.0.1:1/mcp")
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_KEY", "k" * 32)
    return load_settings("bwrap")


@happens("the session has no file that matches ...")
def _(*_: object) -> object:
    return match_files([], "*.csv")


@happens("signing in to Azure failed (...)")
def _(*_: object) -> object:
    class NoCredential:
        def get_token(self, *_: str) -> object:
            raise RuntimeError("no account")

    return anyio.run(Bearer(NoCredential()).headers)


@happens("no session is free (...)")
def _(*_: object) -> object:
    return build_error_from_status(429, {}, b"", starts_code=True)


@happens(
    "the pool answered with a redirect to ... (HTTP ...), which is not followed because it would "
    "pass the key on"
)
def _(*_: object) -> object:
    headers = {"location": "https://login.example/"}
    return build_error_from_status(307, headers, b"", starts_code=True)


@happens("the pool failed (HTTP ...); the code may have run, so it was not sent again")
def _(*_: object) -> object:
    return build_error_from_status(502, {}, b"", starts_code=True)


@happens("a file of ... bytes is too large for this pool: at most ...")
def _(*_: object) -> object:
    with CodeInterpreter(FakeSessionPool(), limits=Limits(file_bytes=9, pieces_bytes=9)) as small:
        return small.session().files.upload(b"0123456789", name="a")


@happens("... exists already")
def _(interpreter: CodeInterpreter, _: object) -> object:
    Path("a.txt").write_text("mine")
    files = interpreter.session().files
    files.upload(b"new", name="a.txt")
    return files.download("a.txt", to="a.txt")


@happens("the URL was refused: ...")
def _(interpreter: CodeInterpreter, _: object) -> object:
    return interpreter.session().files.fetch("https://example.org/a.csv")


@happens("sharing a file needs storage")
def _(interpreter: CodeInterpreter, _: object) -> object:
    return interpreter.session().files.share("a.txt")


@happens("AZURE_STORAGE_CONTAINER is set, but AZURE_STORAGE_ACCOUNT is not")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("AZURE_STORAGE_CONTAINER", "cci-files")
    return Settings.read()


@happens("the storage account refused to ...: ...")
def _(*_: object) -> object:
    core = pytest.importorskip("azure.core.exceptions")
    pytest.importorskip("azure.storage.blob")
    blob = pytest.importorskip("cci_plugins.files.blob")

    class NoCredential:
        def get_token(self, *_: str) -> object:
            raise core.ClientAuthenticationError("no account")

    async def sign() -> object:
        storage = blob.BlobStorage("someaccount", "cci-files", credential=NoCredential())
        try:
            return await storage.link("a", "r", timedelta(minutes=1))
        finally:
            await storage.aclose()

    return anyio.run(sign)


@happens("the isolation backend ... cannot limit egress to hosts")
def _(*_: object) -> object:
    pool = LocalSessionPool(isolation="process", egress=["pypi.org"], ready_sessions=0)
    with CodeInterpreter(pool) as let_out:
        return let_out.run_code("1")


@happens("the Foundry project is not named")
def _(*_: object) -> object:
    foundry = pytest.importorskip("cci_plugins.foundry")
    return foundry.Project.from_env()


@happens("MCP_PROJECT_CONNECTION_ID is not set")
def _(*_: object) -> object:
    return pytest.importorskip("cci_plugins.foundry").code_interpreter_tool()


def with_foundry(ask: Callable[..., Awaitable[object]]) -> object:
    """Return what `ask` returns for the module, a factory of `Project`, and the fake project."""
    foundry = pytest.importorskip("cci_plugins.foundry")
    with tempfile.TemporaryDirectory() as folder:
        with serving_foundry(Path(folder), analyst) as running:
            where = {"arm_endpoint": running.url, "ca_file": running.ca}
            make = partial(foundry.Project, credential=running.credential, **where)
            return anyio.run(ask, foundry, make, running)


@happens("no subscription of this sign-in has the Foundry project")
def _(*_: object) -> object:
    async def ask(_: Any, make: Any, __: Any) -> object:
        return await make("https://another.example/api/projects/project").place()

    return with_foundry(ask)


@happens("the project's connection ... leads elsewhere, and was made by something else")
def _(*_: object) -> object:
    async def ask(foundry: Any, make: Any, running: Any) -> object:
        theirs = {"category": "RemoteTool", "authType": "CustomKeys", "target": "https://theirs"}
        running.fake.connections["code-interpreter"] = {"properties": theirs}
        project = make(resource_id=PROJECT_ID)
        return await foundry.connect(project, endpoint="https://ours.example/mcp", key="k" * 9)

    return with_foundry(ask)


async def refuse(*_: object) -> Response:
    return Response(status_code=401)


@happens("the agent failed: Failed to enumerate tools from remote server: ...")
def _(*_: object) -> object:
    async def ask(foundry: Any, make: Any, running: Any) -> object:
        project = make(running.endpoint, resource_id=PROJECT_ID)
        with listening(Starlette(exception_handlers={404: refuse})) as closed:
            connection = await foundry.connect(project, endpoint=f"{closed}/mcp", key="k" * 9)
            tool = foundry.code_interpreter_tool(connection)
            agent = await foundry.create_agent("a", model=MODEL, tool=tool, project=project)
            return await foundry.run(agent, "What is 2 to the power of 100?")

    return with_foundry(ask)


@happens("the agent's tool requires approval, but run() has no approver; no code ran")
def _(*_: object) -> object:
    agents = pytest.importorskip("cci_plugins.foundry.agents")
    request = {"name": "runPythonCodeInRemoteEnvironment", "arguments": "{}"}
    return anyio.run(agents._answer, request, None)


@happens("the agent answered without running code")
def _(*_: object) -> object:
    agents = pytest.importorskip("cci_plugins.foundry.agents")
    with record_log() as records:
        agents._read_reply([{"output": []}])
    return records[0].getMessage()


class Offers:
    """A Resource Manager in which nothing exists and a region offers one model."""

    async def get(self, *_: object, **__: object) -> None:
        return None

    async def list(self, *_: object, **__: object) -> list[object]:
        return [{"kind": "AIServices", "model": {"name": "gpt-6-luna", "version": "1"}}]


@happens("model: the region ... does not offer the model ...; it offers ...")
def _(*_: object) -> object:
    provisioning = pytest.importorskip("cci_plugins.provisioning")
    from cci_plugins.provisioning.foundry import check_model

    subscription = "00000000-0000-0000-0000-000000000001"
    options = provisioning.Options(subscription=subscription, resource_group="group", foundry=True)
    return anyio.run(check_model, options, Offers())


@happens("Foundry project: it has ... agents: ...")
def _(*_: object) -> object:
    pytest.importorskip("cci_plugins.provisioning")
    from cci_plugins.provisioning.foundry_inventory import FoundryInventory
    from cci_plugins.provisioning.foundry_removal import check_agents

    return check_agents(FoundryInventory(agents=("analyst", "planner")))


class Replaced(FakeSessionPool):
    """A pool whose session is another one after the first run."""

    async def execute(self, *_: object, instance: str | None = None, **__: object) -> Execution:
        if instance is not None:
            raise SessionLostError("gone", retryable=True)
        return Execution(instance="1")


class Plain(FakeSessionPool):
    """A pool that can neither interrupt a run nor set variables."""

    capabilities = Capabilities(name="plain")

    async def interrupt(self, session_id: str) -> bool:
        return await super(FakeSessionPool, self).interrupt(session_id)


@happens("the pool ... cannot interrupt a run, so it ends with its code or its timeout")
def _(*_: object) -> object:
    return anyio.run(Plain().interrupt, "a-session")


@happens(
    "the pool ... cannot run code in the background: a run ends with its request; "
    "the code did not run"
)
def _(*_: object) -> object:
    with CodeInterpreter(Plain()) as interpreter:
        return interpreter.start_code("1")


@happens("this pool is closed")
def _(*_: object) -> object:
    async def use_closed_pool() -> None:
        pool = PlatformSessionPool("http://127.0.0.1:9/mcp", key="a-key")
        await pool.aclose()
        await pool.list_files("a-session")

    return anyio.run(use_closed_pool)


@happens("the session's server does not answer")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    async def is_unclear(*_: object) -> bool:
        return False

    monkeypatch.setattr(CustomSessionPool, "_returns_full_results", is_unclear)
    pool = CustomSessionPool("http://127.0.0.1:9", credential="a-token")
    second = timedelta(seconds=1)
    return anyio.run(pool.relay_run, "a-session", RelayedQuery("", second, second, {}, RunQuery()))


@happens("timeout is ... s, and a background run may take at most ... s")
def _(*_: object) -> object:
    with CodeInterpreter(FakeSessionPool()) as interpreter:
        return interpreter.start_code("1", timeout=7200)


@happens("the pool ... cannot set environment variables")
def _(*_: object) -> object:
    with CodeInterpreter(Plain(), env={"A": "1"}) as interpreter:
        return interpreter.run_code("1")


@happens("the pool replaced the session; variables and files of earlier calls are gone")
def _(*_: object) -> object:
    with CodeInterpreter(Replaced()) as interpreter:
        interpreter.run_code("1")
        return interpreter.run_code("2").notes


def test_every_heading_has_a_case() -> None:
    assert sorted(HEADINGS) == sorted(CASES)


@pytest.mark.parametrize("heading", HEADINGS)
def test_the_error_has_the_text_of_the_heading(
    heading: str, interpreter: CodeInterpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        text = str(CASES[heading](interpreter, monkeypatch))
    except CodeInterpreterError as error:
        text = str(error)
    assert re.search(re.escape(heading).replace(r"\.\.\.", ".+"), text), text
