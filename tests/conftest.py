"""Fixtures for every test."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import ssl
import sys
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests import watching
from tests.watching import nothing_leaks

from cci_plugins.redaction.registry import SECRETS

__all__ = ["anyio_backend", "nothing_leaks"]

watching.start()

# The longest files begin, so that the workers end together. The cheap unit tests fill the rest.
LONGEST = (
    "tests/docs/test_python_blocks.py",
    "tests/adapters/test_deepagents.py",
    "tests/integration/test_cli_serve.py",
    "tests/integration/test_doctor.py",
    "tests/samples/test_samples.py",
    "tests/integration/test_azure_pools.py",
    "tests/integration/test_plain_python.py",
    "tests/integration/test_foundry.py",
    "tests/adapters/test_what_the_model_sees.py",
    "tests/integration/test_files.py",
    "tests/integration/test_provisioning.py",
    "tests/docs/test_troubleshooting.py",
    "tests/integration/test_cli_run.py",
    "tests/integration/test_local_pool.py",
    "tests/integration/test_cli_provision.py",
    "tests/integration/test_platform_pool.py",
    "tests/integration/test_mcp_execute_code.py",
    "tests/samples/test_sample_folders.py",
    "tests/integration/test_unusual_hosts.py",
    "tests/integration/test_host_tools_server.py",
)
LAST = ("tests/unit/", "tests/infra/", "tests/bare/")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what repeats a test with other parameters, and sort the files by their length."""
    for item in items:
        quick = item.get_closest_marker("quick")
        chosen = getattr(item, "callspec", None)
        if quick is not None and chosen is not None and not set(quick.args) & set(chosen._idlist):
            item.add_marker("full")

    def rank(item: pytest.Item) -> int:
        path = item.nodeid.partition("::")[0]
        if path in LONGEST:
            return LONGEST.index(path)
        return len(LONGEST) + path.startswith(LAST)

    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while the test modules import their frameworks.

    It would take a quarter of that time. What the imports created is not searched later either.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _undo_what_the_shell_set() -> None:
    """Let programs write bytecode, and let Ctrl-C interrupt them, as on a user's terminal.

    A shell's background jobs ignore Ctrl-C, and so do the programs that they start.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_undo_what_the_shell_set()


def _find_uv() -> None:
    """Let tests that install packages find the uv of this checkout. Pip takes ten times as long."""
    own = Path(__file__).parents[1] / ".hatch" / "bin"
    if shutil.which("uv") is None and (own / "uv").exists():
        os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], str(own)])


_find_uv()


if find_spec("hypothesis") is not None:
    from tests.examples import load_profile

    load_profile()


def _start_kernels_on_demand() -> None:
    """Keep no kernel ready and import no data packages, unless a test asks for them.

    A warm kernel costs two seconds of a core, and most tests use one session of a pool.
    """
    os.environ.setdefault("CCI_READY_SESSIONS", "0")
    os.environ.setdefault("CCI_PRELOAD", "none")
    if find_spec("jupyter_client") is not None:
        from cci_plugins.pools.local.pool import LocalSessionPool

        LocalSessionPool.__init__.__kwdefaults__.update(ready_sessions=0, preload=())


_start_kernels_on_demand()


def _load_certificates_once() -> None:
    """Share one context among clients that trust the certificates of this machine or of certifi.

    httpx loads them for each client, which costs 20 ms, also for addresses without TLS.
    """
    create = ssl.create_default_context
    machine = os.environ.get("SSL_CERT_FILE")
    shared: dict[str, ssl.SSLContext] = {}

    def create_or_share(*arguments: Any, **options: Any) -> ssl.SSLContext:
        file = str(options.get("cafile"))
        is_usual = file == machine or file.endswith("certifi/cacert.pem")
        if arguments or options.keys() != {"cafile"} or not is_usual:
            return create(*arguments, **options)
        if file not in shared:
            shared[file] = create(cafile=file)
        return shared[file]

    ssl.create_default_context = create_or_share


_load_certificates_once()


@pytest.fixture(scope="module", autouse=True)
def _collect_garbage() -> Iterator[None]:
    """Fail the module that left sockets or processes open, not one that runs after it.

    What is alive after a module is not searched again, because that costs half a second.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _refuse_blocking_calls() -> Iterator[None]:
    """Fail where the package sleeps or waits for a socket on an event loop.

    Calls on local files and locks are allowed. They take microseconds there.
    """
    if find_spec("blockbuster") is None:
        yield
        return
    from blockbuster import blockbuster_ctx

    with blockbuster_ctx("cci_plugins") as detector:
        for name, function in detector.functions.items():
            if name.startswith(("io.", "os.", "threading.")):
                function.deactivate()
        yield


@pytest.fixture(scope="module", autouse=True)
def _restore_logger() -> Iterator[None]:
    """Undo what the command line does to the package's logger, which other modules read."""
    logger = logging.getLogger("cci_plugins")
    handlers, propagate = list(logger.handlers), logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate


@pytest.fixture(scope="module", autouse=True)
def _unregister_secrets() -> Iterator[None]:
    """Keep the secrets that one module registers from hiding the output of another one."""
    registered: list[str] = []
    register = SECRETS.register

    def record(secret: str) -> None:
        registered.append(secret)
        register(secret)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SECRETS, "register", record)
        yield
    for secret in registered:
        SECRETS.unregister(secret)


@pytest.fixture
def anyio_backend() -> str:
    """Run everything on asyncio, because the sockets of the session pools do."""
    return "asyncio"
