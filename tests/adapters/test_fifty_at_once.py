"""Fifty conversations at once in one process: no state crosses, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from samples.scripted_model import ScriptedModel

from cci_plugins import CodeInterpreter, Execution, Limits, LocalSessionPool
from cci_plugins.testing import FakeSessionPool

from .conftest import Ask

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]

KEYS = [f"user-{number:02}" for number in range(50)]


@pytest.fixture(scope="module")
def fifty() -> Iterator[CodeInterpreter]:
    """Fifty real sessions, which every framework uses in its turn."""
    pool = LocalSessionPool(preload=(), max_sessions=len(KEYS), ready_sessions=0)
    limits = Limits(execution_timeout=timedelta(seconds=120))
    made = CodeInterpreter(pool, limits=limits)
    yield made
    asyncio.run(made.aclose())


async def test_fifty_conversations_keep_to_themselves(
    ask: Ask, fifty: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    setting = "import time\nassert 'mine' not in dir()\nmine = {key!r}\ntime.sleep(0.05)"
    getting = "assert mine == {key!r}\nprint('mine is', mine)\ndel mine"
    model = scripted(
        *((f"set {key}", setting.format(key=key)) for key in KEYS),
        *((f"get {key}", getting.format(key=key)) for key in KEYS),
    )
    for verb in ("set", "get"):
        await asyncio.gather(*(ask(fifty, model, key, f"{verb} {key}") for key in KEYS))
    sent = json.dumps([body for _, body in model.requests])
    assert "Traceback" not in sent
    for key in KEYS:
        assert f"mine is {key}" in sent


async def test_what_fifty_conversations_took_is_given_back(
    ask: Ask, scripted: Callable[..., ScriptedModel]
) -> None:
    pool = FakeSessionPool(Execution(stdout="line of output\n" * 1_000))
    model = scripted(("go", "1"))
    async with CodeInterpreter(pool) as interpreter:

        async def conversations() -> tuple[int, int]:
            await asyncio.gather(*(ask(interpreter, model, key, "go") for key in KEYS))
            for key in KEYS:
                await interpreter.session(key).delete()
            model.requests.clear()
            pool.calls.clear()
            await asyncio.sleep(0)
            gc.collect()
            return len(gc.get_objects()), len(asyncio.all_tasks())

        await conversations()  # what a framework sets up once stays
        objects, tasks = await conversations()
        more, still = await conversations()
    assert still == tasks
    assert more - objects < len(KEYS), "not even one object stays for each conversation"
