"""A thousand executions through every fault: none runs twice, none is lost silently."""

import asyncio
import logging
import os
import time
from collections import Counter
from datetime import timedelta

import anyio
import httpx
import pytest

from cci_plugins import CodeInterpreter, Execution
from cci_plugins.errors import AuthenticationError, CodeInterpreterError, PoolUnavailableError

from ._azure import ARM_TOKEN, POOL_ID, Credential, listening
from ._emulated import KEY, TOKEN, emulated
from ._proxy import proxied
from .test_azure_pools import arm_for

pytest.importorskip("mcp")

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(400)]

CONVERSATIONS = 16
BREAK_AFTER = 60  # executions
TIMEOUT, MARGIN, PATIENCE = 8, 3, 12  # no run takes so long, on a busy machine either
# The wait for the run, the wait for its outcome, and the retries of each.
DEADLINE = 2 * (TIMEOUT + MARGIN + PATIENCE) + 10


class Witness:
    """Record of the executions that ran, each of which adds a line to one file."""

    def __init__(self, path):
        self.path = path
        self.outcomes: dict[str, Execution | CodeInterpreterError] = {}
        self.slow: list[tuple[str, float]] = []

    def code(self, name):
        line = f"{name}\n"
        return f"with open({str(self.path)!r}, 'a') as file:\n    file.write({line!r})\n{name!r}"

    async def converse(self, session, number, count):
        for turn in range(count):
            name = f"{number}-{turn}"
            begun = time.monotonic()
            try:
                outcome = await session.run_code(
                    self.code(name), timeout=timedelta(seconds=TIMEOUT)
                )
            except CodeInterpreterError as error:
                outcome = error
            self.outcomes[name] = outcome
            if (took := time.monotonic() - begun) > DEADLINE:
                self.slow.append((name, took))

    def check(self):
        ran = Counter(self.path.read_text().split())
        assert [name for name, times in ran.items() if times > 1] == [], "ran twice"
        for name, outcome in self.outcomes.items():
            if isinstance(outcome, Execution) and outcome.status == "died":
                assert outcome.state == "lost", outcome  # between the run and its report
            elif isinstance(outcome, Execution):
                assert outcome.error is None, outcome
                assert outcome.text == repr(name)
                assert ran[name] == 1
            elif outcome.retryable or isinstance(outcome, AuthenticationError):
                assert ran[name] == 0, f"{name} ran, but {outcome!r} denies it"
            elif "the code ran" in str(outcome):
                assert ran[name] == 1
            else:
                assert "may have run" in str(outcome), repr(outcome)
        assert self.slow == []


async def trouble(proxy, done, witness):
    """Break and refuse connections after so many executions, however fast this machine is."""
    broken_at = 0
    while not done.is_set():
        await anyio.sleep(0.01)
        if len(witness.outcomes) < broken_at + BREAK_AFTER:
            continue
        broken_at = len(witness.outcomes)
        proxy.reset()
        proxy.refuse()
        await anyio.sleep(0.2)
        await proxy.listen()


def local_pool():
    from cci_plugins.pools.local.pool import LocalSessionPool

    # without a sandbox, so that the code can write to the file of the witness
    return LocalSessionPool(isolation="process", preload=(), ready_sessions=2, max_sessions=64)


def planted(emulator, caplog, witness, client):
    """Return the secrets that logs, errors or the client show."""
    shown = [caplog.text, repr(client)]
    shown += [record.getMessage() + repr(record.__dict__) for record in caplog.records]
    for outcome in witness.outcomes.values():
        chain, error = [repr(outcome)], outcome
        while isinstance(error, BaseException):
            chain += [str(error), repr(error), repr(error.__dict__)]
            error = error.__cause__ or error.__context__
        shown += chain
    everything = "\n".join(shown)
    secrets = {KEY, TOKEN, ARM_TOKEN, emulator.key}
    return [secret for secret in secrets if secret in everything]


@pytest.mark.full
@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({"kind": "platform"}, 1000),
        ({"kind": "managed"}, 320),
        ({"kind": "custom"}, 320),
    ],
    ids=["platform", "managed", "custom"],
)
async def test_no_fault_makes_code_run_twice_or_get_lost(options, total, tmp_path, caplog):
    from cci_plugins.server import FAULTS, Faults

    caplog.set_level(logging.DEBUG)
    witness = Witness(tmp_path / "ran")
    witness.path.touch()
    faults = Faults(rate=0.3, seed=int(os.environ.get("PYTEST_SEED", "7")))
    options = {**options, "max_sessions": 64, "faults": faults}
    done = anyio.Event()
    async with emulated(local_pool(), **options) as azure:
        async with proxied(httpx.URL(azure.url).port) as proxy:
            arm = arm_for(azure, mcpServerSettings={"mcpServerEndpoint": azure.url})
            with listening(arm.app) as arm_url:
                times = {
                    "margin": timedelta(seconds=MARGIN),
                    "patience": timedelta(seconds=PATIENCE),
                }
                through = azure._replace(url=f"http://127.0.0.1:{proxy.port}")
                if options["kind"] == "platform":
                    times |= {"resource_id": POOL_ID, "arm_endpoint": arm_url}
                    times |= {"credential": Credential(TOKEN)}
                client = through.client(**times)
                async with (
                    CodeInterpreter(client) as interpreter,
                    anyio.create_task_group() as tasks,
                ):
                    tasks.start_soon(trouble, proxy, done, witness)
                    count = total // CONVERSATIONS
                    await asyncio.gather(
                        *(
                            witness.converse(interpreter.session(f"user-{number}"), number, count)
                            for number in range(CONVERSATIONS)
                        )
                    )
                    done.set()
    witness.check()
    fault_counts = azure.emulator.fault_counts
    assert len(witness.outcomes) == count * CONVERSATIONS
    assert sum(fault_counts.values()) > total // 5
    if total >= 1000:
        assert set(FAULTS) == set(fault_counts), "not every fault happened"
    assert proxy.broken > 0
    assert planted(azure.emulator, caplog, witness, client) == []
    outcomes = Counter(type(outcome).__name__ for outcome in witness.outcomes.values())
    # only a session with the agent can report the outcome of a run
    share = 0.5 if options["kind"] == "custom" else 0.8
    assert outcomes["Execution"] > share * len(witness.outcomes), outcomes


async def test_a_refused_connection_is_retried_until_the_server_is_back(tmp_path):
    async with emulated(local_pool(), kind="custom") as azure:
        async with proxied(httpx.URL(azure.url).port) as proxy:
            through = azure._replace(url=f"http://127.0.0.1:{proxy.port}")
            async with CodeInterpreter(through.client()) as interpreter:
                await interpreter.run_code("x = 1")
                proxy.refuse()
                proxy.reset()
                await anyio.sleep(0.2)  # the client sees that its idle connections are gone

                async def come_back():
                    await anyio.sleep(1)
                    await proxy.listen()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(come_back)
                    assert (await interpreter.run_code("x")).text == "1"
            async with CodeInterpreter(through.client(patience=timedelta(0))) as interpreter:
                proxy.refuse()
                proxy.reset()
                await anyio.sleep(0.2)  # the client sees that its idle connections are gone
                with pytest.raises(PoolUnavailableError) as caught:
                    await interpreter.run_code("1")
    assert caught.value.retryable
