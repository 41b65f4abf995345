"""Output at the pace of the host: code waits while the host is busy, and nothing is dropped.

Sent as source, standard library only. A publisher of libzmq drops what it sends while 1,000
messages wait, and with them the end of a run. So the thread that sends output waits instead. Code
that produces output then waits for that thread, because its queue would fill the session's memory.
The host always reads on or ends the kernel, so each wait has an end.
"""

from __future__ import annotations

import threading
from typing import Any

# Options of libzmq
SNDHWM, XPUB_NODROP = 23, 69
MAX_WAITING_MESSAGES = 100  # in libzmq
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

    def set_options() -> None:
        sender.socket.setsockopt(XPUB_NODROP, 1)
        sender.socket.setsockopt(SNDHWM, MAX_WAITING_MESSAGES)

    def send_and_wait(parts: Any, *rest: Any, **options: Any) -> None:
        send(parts, *rest, **options)
        if threading.current_thread() is not producer:
            return
        queued[0] += 1
        queued[1] += sum(memoryview(part).nbytes for part in parts)
        if queued[0] >= MAX_QUEUED_MESSAGES or queued[1] >= MAX_QUEUED_BYTES:
            queued[:] = 0, 0
            sent = threading.Event()
            sender.schedule(sent.set)
            sent.wait(WAIT_SECONDS)

    sender.schedule(set_options)
    sender.send_multipart = send_and_wait
