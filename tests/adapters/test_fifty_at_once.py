"""Fifty conversations at once in one process: no state crosses, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta

import anyio
import pytest

from cci_plugins import CodeInterpreter, Execution, Limits, LocalSessionPool
from cci_plugins.testing import FakeSessionPool, ScriptedModel

from .conftest import Ask

pytestmark = [pytest.mark.anyio, pytest.mark.full, pytest.mark.timeout(900)]

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


# OpenTelemetry keeps a proxy for each instrument that a framework makes; those are not ours.
WATCHED = ("agent_framework", "agents", "asyncio", "cci_plugins", "httpcore", "httpx", "langchain")
WATCHED += ("langgraph", "openai", "pydantic", "semantic_kernel")


def living() -> Counter[str]:
    """How many objects there are of each type that a conversation may be made of."""
    gc.collect()
    modules = (str(vars(type(each)).get("__module__")) for each in gc.get_objects())
    return Counter(name for name in modules if name.startswith(WATCHED))


async def test_the_resources_of_fifty_conversations_are_released(
    ask: Ask, scripted: Callable[..., ScriptedModel]
) -> None:
    pool = FakeSessionPool(Execution(stdout="line of output\n" * 1_000))
    model = scripted(("go", "1"))
    tasks = len(asyncio.all_tasks())
    async with CodeInterpreter(pool) as interpreter:

        async def conversations() -> Counter[str]:
            await asyncio.gather(*(ask(interpreter, model, key, "go") for key in KEYS))
            for key in KEYS:
                await interpreter.session(key).delete()
            return living()

        await conversations()  # what a framework sets up once stays
        before = await conversations()
        after = await conversations()
    # the portal's thread may still hold the last call; what grows with conversations is a leak
    assert max((after - before).values(), default=0) < len(KEYS) // 5
    with anyio.fail_after(20):
        while len(asyncio.all_tasks()) > tasks:  # what ends a moment later is not left
            await asyncio.sleep(0.05)
