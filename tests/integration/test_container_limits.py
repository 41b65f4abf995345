"""What a container's variables give the sessions of its server: values, memory, threads."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from cci_plugins import CodeInterpreter
from cci_plugins.common.limits import MIB
from cci_plugins.common.settings import Settings
from cci_plugins.core.interpreter import build_pool
from cci_plugins.errors import IsolationError
from cci_plugins.pools.local.pool import LocalSessionPool

pytestmark = pytest.mark.anyio

SHOW = """
import os, subprocess
names = ("REGION", "PATH", "HTTPS_PROXY", "LD_PRELOAD", "CCI_TIMEOUT", "OMP_NUM_THREADS")
print({name: os.environ.get(name) for name in names})
print([name for name in os.environ if name.startswith("CCI_SESSION_ENV_")])
"""
HOSTILE = {
    "REGION": "north",
    "PATH": "/opt/tools:/bin",
    "HTTPS_PROXY": "http://proxy.invalid:3128",
    "LD_PRELOAD": "/nothing/here.so",
    "CCI_TIMEOUT": "nonsense",
}


@pytest.mark.quick("bwrap")
@pytest.mark.parametrize("isolation", ["bwrap", "landlock", "process"])
async def test_code_sees_the_variables_and_what_starts_it_does_not(
    isolation, monkeypatch, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCI_ISOLATION", isolation)
    monkeypatch.setenv("CCI_READY_SESSIONS", "0")
    monkeypatch.setenv("CCI_CONTAINER_CPU", "3")
    before = {name: os.environ.get(name) for name in HOSTILE}
    for name, value in HOSTILE.items():
        monkeypatch.setenv(f"CCI_SESSION_ENV_{name}", value)
    settings = Settings.read()
    assert settings.timeout == 220
    async with CodeInterpreter(build_pool(settings)) as interpreter:
        try:
            shown = await interpreter.run_code(SHOW)
        except IsolationError as error:
            pytest.skip(str(error))
        assert shown.error is None, shown.error
        assert eval(shown.stdout.splitlines()[0]) == {**HOSTILE, "OMP_NUM_THREADS": "3"}
        assert shown.stdout.splitlines()[1] == "[]"
    assert {name: os.environ.get(name) for name in HOSTILE} == before


@pytest.mark.full
async def test_a_variable_for_the_code_wins_over_the_number_of_threads() -> None:
    pool = LocalSessionPool(
        ready_sessions=0, preload=(), isolation="process", environment={"OMP_NUM_THREADS": "7"}
    )
    async with CodeInterpreter(pool) as interpreter:
        shown = await interpreter.run_code("import os; print(os.environ['OMP_NUM_THREADS'])")
        assert shown.stdout.strip() == "7"


async def test_the_largest_session_ends_when_all_together_use_too_much() -> None:
    pool = LocalSessionPool(
        ready_sessions=0, preload=(), isolation="auto", total_memory_bytes=500 * MIB
    )
    async with CodeInterpreter(pool) as interpreter:
        small = await interpreter.session("small").run_code("x = bytearray(60 << 20); len(x)")
        assert small.text == str(60 << 20)
        large = await interpreter.session("large").run_code(
            "y = b'1' * (420 << 20); import time; time.sleep(60)", timeout=timedelta(seconds=50)
        )
        assert large.status == "died"
        assert "all sessions together is 500 MiB" in str(large.error)
        kept = await interpreter.session("small").run_code("len(x)")
        assert kept.text == small.text
