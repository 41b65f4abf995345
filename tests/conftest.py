"""Fixtures for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from tests import watching
from tests.watching import nothing_leaks

from cci_plugins.redaction.registry import SECRETS

__all__ = ["anyio_backend", "nothing_leaks"]

watching.start()


def _start_kernels_on_demand() -> None:
    """Keep no kernel ready and import no data packages, unless a test asks for them.

    A warm kernel costs two seconds of a core, and most tests use one session of a pool.
    """
    os.environ.setdefault("CCI_READY_SESSIONS", "0")
    if find_spec("jupyter_client") is not None:
        from cci_plugins.pools.local.pool import LocalSessionPool

        LocalSessionPool.__init__.__kwdefaults__.update(ready_sessions=0, preload=())


_start_kernels_on_demand()


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
