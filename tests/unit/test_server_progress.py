"""A run's output as notifications: whole, in order, seldom, and never silent for long."""

import anyio
import anyio.lowlevel
import pytest

from cci_plugins.mcp_client.progress import load_output
from cci_plugins.models import OutputEvent, Result

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

from cci_plugins.server.mcp import progress

pytestmark = pytest.mark.anyio


class Client:
    """Keeps what it is told; `hold()` makes it slow until `release()`."""

    def __init__(self):
        self.told: list[dict] = []
        self.came = anyio.Event()
        self._free = anyio.Event()
        self._free.set()

    def hold(self):
        self._free = anyio.Event()

    def release(self):
        self._free.set()

    async def notify(self, told: dict) -> None:
        self.told.append(told)
        self.came.set()
        await self._free.wait()

    async def next(self) -> dict:
        await self.came.wait()
        self.came = anyio.Event()
        return self.told[-1]

    @property
    def events(self) -> list[OutputEvent]:
        return [event for told in self.told for event in load_output(told)]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)


async def test_output_is_told_while_the_code_runs_and_counts_up():
    client = Client()
    with anyio.fail_after(10):
        async with progress.telling(client.notify) as tell:
            tell(OutputEvent("stdout", "one\n"))
            assert (await client.next())["progress"] == 4
            tell(OutputEvent("stderr", "two\n"))
            assert (await client.next())["progress"] == 8
            tell(OutputEvent("stdout", "three"))
    assert [told["progress"] for told in client.told] == [4, 8, 13]
    assert [told["message"] for told in client.told] == ["one", "two", "three"]
    assert client.events == [
        OutputEvent("stdout", "one\n"),
        OutputEvent("stderr", "two\n"),
        OutputEvent("stdout", "three"),
    ]


async def test_many_pieces_are_one_notification_with_their_order():
    client = Client()
    with anyio.fail_after(10):
        async with progress.telling(client.notify) as tell:
            tell(OutputEvent("stdout", "first"))
            await client.next()
            for number in range(1000):
                tell(OutputEvent("stdout", f"{number} "))
            tell(OutputEvent("stderr", "oh"))
            tell(OutputEvent("stdout", "last"))
    assert len(client.told) == 2
    assert [event.stream for event in client.events] == ["stdout", "stdout", "stderr", "stdout"]
    assert client.text == "first" + "".join(f"{n} " for n in range(1000)) + "oh" + "last"


async def test_there_are_at_most_ten_in_a_second():
    client = Client()
    with anyio.fail_after(10):
        begun = anyio.current_time()
        async with progress.telling(client.notify) as tell:
            while anyio.current_time() - begun < 0.35:
                tell(OutputEvent("stdout", "x"))
                await anyio.lowlevel.checkpoint()
        assert 2 <= len(client.told) <= 10 * (anyio.current_time() - begun) + 2


async def test_silence_is_broken_by_signs_of_life(monkeypatch):
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.01)
    client = Client()
    with anyio.fail_after(10):
        async with progress.telling(client.notify) as tell:
            beats = [await client.next() for _ in range(3)]
            tell(OutputEvent("stdout", "ab"))
            while not client.events:
                await client.next()
    assert beats == [{"progress": 1}, {"progress": 2}, {"progress": 3}]
    counts = [told["progress"] for told in client.told]
    assert counts == sorted(set(counts))


async def test_a_run_that_says_nothing_sends_nothing():
    client = Client()
    async with progress.telling(client.notify) as tell:
        tell(OutputEvent("result", result=Result({"text/plain": "42"})))
    assert client.told == []


async def test_a_client_that_lags_gets_the_beginning(monkeypatch):
    """What is pending stays bounded; the reply has the rest."""
    monkeypatch.setattr(progress, "MOST_PENDING", 10)
    client = Client()
    client.hold()
    with anyio.fail_after(10):
        async with progress.telling(client.notify) as tell:
            tell(OutputEvent("stdout", "abc"))
            await client.next()
            tell(OutputEvent("stdout", "defghi"))
            tell(OutputEvent("stdout", "jklmnopqr"))
            client.release()
            tell(OutputEvent("stdout", "s"))
    assert client.text == "abcdefghi"


async def test_a_client_that_left_does_not_stop_the_run():
    async def broken(_):
        raise anyio.BrokenResourceError

    with anyio.fail_after(10):
        async with progress.telling(broken) as tell:
            for _ in range(3):
                tell(OutputEvent("stdout", "x"))
                await anyio.lowlevel.checkpoint()


async def test_the_message_is_one_clean_line():
    client = Client()
    text = "ignored\n\x1b[31m" + "x" * 1000 + " 10%\r 99%\n\n"
    async with progress.telling(client.notify) as tell:
        tell(OutputEvent("stdout", text))
    assert client.told[0]["message"] == "99%"
    assert client.text == text


async def test_what_json_cannot_carry_is_replaced():
    client = Client()
    async with progress.telling(client.notify) as tell:
        tell(OutputEvent("stdout", "a\ud800b"))
    assert client.text == "a\N{REPLACEMENT CHARACTER}b"
