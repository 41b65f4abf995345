"""Output at the pace of the host: code waits while the host is busy, and nothing is dropped.

Sent as source, standard library only. A publisher of libzmq drops what it sends beyond the limit of
its queue, and with it the end of a run. So the thread that sends output waits instead
(`launcher/boot`), and does nothing meanwhile that needs a processor: it makes a message when there
is room for it. Code that produces output then waits for that thread, because its queue would fill
the session's memory. The host always reads on or ends the kernel, so each wait has an end.
"""

from __future__ import annotations

import threading
from typing import Any

MAX_QUEUED_MESSAGES = 100  # for the sending thread
MAX_QUEUED_BYTES = 4 << 20
WAIT_SECONDS = 10.0


def wait_for_the_host(sender: Any) -> None:
    """Have a kernel wait for its host.

    Args:
        sender: ipykernel's `IOPubThread`.
    """
    send = sender.send_multipart
    producer = threading.current_thread()
    queued = [0, 0]  # messages and bytes since the last wait

    def send_and_wait(parts: Any, *rest: Any, **options: Any) -> None:
        current = threading.current_thread()
        if current is sender.thread:  # ipykernel would queue all of a long text first
            sender._really_send(parts, *rest, **options)  # noqa: SLF001 - what its queue calls
            return
        send(parts, *rest, **options)
        if current is not producer:
            return
        queued[0] += 1
        queued[1] += sum(memoryview(part).nbytes for part in parts)
        if queued[0] >= MAX_QUEUED_MESSAGES or queued[1] >= MAX_QUEUED_BYTES:
            queued[:] = 0, 0
            sent = threading.Event()
            sender.schedule(sent.set)
            sent.wait(WAIT_SECONDS)

    sender.send_multipart = send_and_wait


def flush_later(stream: Any) -> None:
    """Have a stream sent soon, after all that is queued.

    ipykernel's own timer sends past the queue, which is right only while sending means queueing.

    Args:
        stream: ipykernel's `OutStream`.
    """
    if not stream._flush_pending:  # noqa: SLF001 - as in ipykernel's `_schedule_flush`
        stream._flush_pending = True  # noqa: SLF001
        sender, loop = stream.pub_thread, stream.pub_thread.io_loop
        queue = lambda: sender.schedule(stream._flush)  # noqa: E731, SLF001
        sender.schedule(lambda: loop.call_later(stream.flush_interval, queue))
