"""Progress notifications of a run's output: complete, in order, batched, with heartbeats."""

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
    """Records notifications. `hold()` makes it slow until `release()`."""

    def __init__(self):
        self.received: list[dict] = []
        self.came = anyio.Event()
        self._free = anyio.Event()
        self._free.set()

    def hold(self):
        self._free = anyio.Event()

    def release(self):
        self._free.set()

    async def notify(self, received: dict) -> None:
        self.received.append(received)
        self.came.set()
        await self._free.wait()

    async def next(self) -> dict:
        await self.came.wait()
        self.came = anyio.Event()
        return self.received[-1]

    @property
    def events(self) -> list[OutputEvent]:
        return [event for received in self.received for event in load_output(received)]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)


async def test_output_is_reported_while_the_code_runs_and_counts_up():
    client = Client()
    with anyio.fail_after(10):
        async with progress.report_progress(client.notify) as on_output:
            on_output(OutputEvent("stdout", "one\n"))
            assert (await client.next())["progress"] == 4
            on_output(OutputEvent("stderr", "two\n"))
            assert (await client.next())["progress"] == 8
            on_output(OutputEvent("stdout", "three"))
    assert [received["progress"] for received in client.received] == [4, 8, 13]
    assert [received["message"] for received in client.received] == ["one", "two", "three"]
    assert client.events == [
        OutputEvent("stdout", "one\n"),
        OutputEvent("stderr", "two\n"),
        OutputEvent("stdout", "three"),
    ]


async def test_many_chunks_become_one_notification_in_order():
    client = Client()
    with anyio.fail_after(10):
        async with progress.report_progress(client.notify) as on_output:
            on_output(OutputEvent("stdout", "first"))
            await client.next()
            for number in range(1000):
                on_output(OutputEvent("stdout", f"{number} "))
            on_output(OutputEvent("stderr", "oh"))
            on_output(OutputEvent("stdout", "last"))
    assert len(client.received) == 2
    assert [event.stream for event in client.events] == ["stdout", "stdout", "stderr", "stdout"]
    assert client.text == "first" + "".join(f"{n} " for n in range(1000)) + "oh" + "last"


async def test_there_are_at_most_ten_notifications_in_a_second():
    client = Client()
    with anyio.fail_after(10):
        begun = anyio.current_time()
        async with progress.report_progress(client.notify) as on_output:
            while anyio.current_time() - begun < 0.35:
                on_output(OutputEvent("stdout", "x"))
                await anyio.lowlevel.checkpoint()
        assert 2 <= len(client.received) <= 10 * (anyio.current_time() - begun) + 2


async def test_a_silent_run_sends_heartbeats(monkeypatch):
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.01)
    client = Client()
    with anyio.fail_after(10):
        async with progress.report_progress(client.notify) as on_output:
            beats = [await client.next() for _ in range(3)]
            on_output(OutputEvent("stdout", "ab"))
            while not client.events:
                await client.next()
    assert beats == [{"progress": 1}, {"progress": 2}, {"progress": 3}]
    counts = [received["progress"] for received in client.received]
    assert counts == sorted(set(counts))


async def test_a_run_without_text_output_sends_nothing():
    client = Client()
    async with progress.report_progress(client.notify) as on_output:
        on_output(OutputEvent("result", result=Result({"text/plain": "42"})))
    assert client.received == []


async def test_a_slow_client_receives_the_beginning(monkeypatch):
    """What is pending stays bounded, and the reply has the rest."""
    monkeypatch.setattr(progress, "MAX_PENDING_CHARACTERS", 10)
    client = Client()
    client.hold()
    with anyio.fail_after(10):
        async with progress.report_progress(client.notify) as on_output:
            on_output(OutputEvent("stdout", "abc"))
            await client.next()
            on_output(OutputEvent("stdout", "defghi"))
            on_output(OutputEvent("stdout", "jklmnopqr"))
            client.release()
            on_output(OutputEvent("stdout", "s"))
    assert client.text == "abcdefghi"


async def test_a_client_that_left_does_not_stop_the_run():
    async def broken(_):
        raise anyio.BrokenResourceError

    with anyio.fail_after(10):
        async with progress.report_progress(broken) as on_output:
            for _ in range(3):
                on_output(OutputEvent("stdout", "x"))
                await anyio.lowlevel.checkpoint()


async def test_the_message_is_one_clean_line():
    client = Client()
    text = "ignored\n\x1b[31m" + "x" * 1000 + " 10%\r 99%\n\n"
    async with progress.report_progress(client.notify) as on_output:
        on_output(OutputEvent("stdout", text))
    assert client.received[0]["message"] == "99%"
    assert client.text == text


async def test_text_that_json_cannot_encode_is_replaced():
    client = Client()
    async with progress.report_progress(client.notify) as on_output:
        on_output(OutputEvent("stdout", "a\ud800b"))
    assert client.text == "a\N{REPLACEMENT CHARACTER}b"


async def test_a_line_that_comes_in_parts_is_named_as_a_whole():
    client = Client()
    with anyio.fail_after(10):
        async with progress.report_progress(client.notify) as on_output:
            for text in ("step ", "2\n", "\n", "3"):
                on_output(OutputEvent("stdout", text))
                await client.next()
    assert [one["message"] for one in client.received] == ["step", "step 2", "", "3"]
    assert client.text == "step 2\n\n3"
