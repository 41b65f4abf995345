"""Fixtures with real kernels in real sandboxes."""

import os
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.errors import IsolationError

jupyter_client = pytest.importorskip("jupyter_client")


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command `cci` in the test's own folder and in this process."""
    from ._command import Command

    return Command(tmp_path, monkeypatch, capsys)


class SandboxedKernel:
    """A sandbox and a client of its kernel."""

    def __init__(self, sandbox):
        self.sandbox = sandbox
        self._client = jupyter_client.AsyncKernelClient()
        self._client.load_connection_info(sandbox.connection)
        self._client.start_channels()

    async def ready(self):
        await self._client.wait_for_ready(timeout=30)

    async def run(self, code: str, timeout: float = 30) -> str:
        """What the code printed, followed by `Name: message` of its exception."""
        out: list[str] = []

        def hear(message):
            content = message["content"]
            if message["msg_type"] == "stream":
                out.append(content["text"])
            elif message["msg_type"] == "error":
                out.append(f"{content['ename']}: {content['evalue']}")

        await self._client.execute_interactive(
            code, output_hook=hear, timeout=timeout, allow_stdin=False
        )
        return "".join(out).strip()

    def send(self, code: str) -> None:
        """Run code without waiting for an answer."""
        self._client.execute(code, allow_stdin=False)

    async def kill(self):
        self._client.stop_channels()
        await self.sandbox.kill()


def spec_of(**limits: int):
    from cci_plugins.pools.local.isolation import KernelSpec

    return KernelSpec(
        python=Path(sys.executable), key=os.urandom(16).hex(), limits=SandboxLimits(**limits)
    )


@pytest.fixture(scope="module")
def sandboxed_kernel(anyio_backend) -> Callable[..., object]:
    """Start a kernel: `async with sandboxed_kernel("bwrap", disk_bytes=...) as kernel`."""

    @asynccontextmanager
    async def start(tier: str, **limits: int):
        from cci_plugins.pools.local.isolation import choose

        spec = spec_of(**limits)
        try:
            isolation = await choose(tier, spec)
        except IsolationError as error:
            pytest.skip(f"{tier} does not hold on this machine: {error}")
        kernel = SandboxedKernel(await isolation.launch(spec))
        try:
            await kernel.ready()
            yield kernel
        finally:
            await kernel.kill()

    return start
