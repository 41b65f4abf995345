"""Start of `cci run`: it loads little, and starts the pool early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from cci_plugins.cli import run_job
from cci_plugins.cli.early_start import start_early
from cci_plugins.cli.plain_run import run_plainly
from cci_plugins.errors import IsolationError
from cci_plugins.models import Execution
from cci_plugins.pools.local.isolation import interpreter
from cci_plugins.testing import FakeSessionPool

HEAVY = ("typer", "pydantic", "pydantic_core", "packaging", "rich.console", "dotenv", "httpx")


def test_code_without_options_runs_without_heavy_modules() -> None:
    code = (
        "import sys, cci_plugins.cli.plain_run, cci_plugins.cli.run_job, cci_plugins.sync\n"
        "import cci_plugins.pools.local.pool\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


@pytest.mark.parametrize(
    "arguments",
    [[], ["run"], ["run", "-"], ["run", "--help"], ["run", "1", "--json"], ["serve", "1"]],
)
def test_every_other_command_line_is_parsed(arguments: list[str]) -> None:
    assert run_plainly(arguments) is None


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, (0, "")),
        (KeyboardInterrupt(), (130, "error: interrupted\n")),
        (IsolationError("no", hint="go on"), (3, "error: no\n\nhint: go on\n")),
        (ValueError("odd"), (70, "error: unexpected ValueError: odd\n")),
    ],
)
def test_plain_code_has_the_exit_codes_and_messages_of_every_command(
    error: BaseException | None,
    outcome: tuple[int, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def build_pool(_: object) -> FakeSessionPool:
        if error is not None:
            raise error
        return FakeSessionPool(Execution(stdout="1\n"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_job, "build_pool", build_pool)
    code, message = outcome
    assert run_plainly(["run", "print(1)"]) == code
    out, err = capsys.readouterr()
    assert out == ("" if error else "1\n")
    assert err.startswith(message)


class Pool(FakeSessionPool):
    """An embedded pool that takes its time to start, or cannot."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(Execution())
        self.error = error
        self.events: list[str] = []

    def expect_session(self) -> None:
        self.events.append("expects a session")

    async def start(self) -> None:
        if self.error is not None:
            raise self.error
        await anyio.sleep(0.01)
        self.events.append("started")

    async def aclose(self) -> None:
        self.events.append("closed")


def test_the_embedded_pool_starts_while_the_block_goes_on() -> None:
    pool = Pool()
    with start_early(pool) as wait_until_started:
        wait_until_started()
        assert pool.events == ["expects a session", "started"]
    assert "closed" not in pool.events  # its interpreter does that


def test_a_pool_that_cannot_start_raises_its_error_and_is_closed() -> None:
    pool = Pool(IsolationError("no isolation works"))
    with (
        pytest.raises(IsolationError, match="no isolation works"),
        start_early(pool) as wait_until_started,
    ):
        wait_until_started()
    assert pool.events[-1] == "closed"


def test_a_block_that_fails_before_it_has_an_interpreter_closes_the_pool() -> None:
    pool = Pool()
    with pytest.raises(KeyboardInterrupt), start_early(pool):
        raise KeyboardInterrupt
    assert pool.events[-1] == "closed"


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is always run")
async def test_this_interpreter_is_described_as_it_describes_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = Path(sys.executable)
    own = interpreter._describe_own(python)
    monkeypatch.setattr(interpreter, "_describe_own", lambda _: None)
    assert own is None or own == await interpreter._query(python)
