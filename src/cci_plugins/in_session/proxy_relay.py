"""A relay from a loopback port of the session to its egress proxy.

The egress proxy is reached by a Unix socket, which no HTTP library supports. So the kernel
listens on the session's own loopback interface and copies bytes to that socket. The usual
variables (`HTTPS_PROXY` and others) name the port. Sent as source, standard library only.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

CHUNK_BYTES = 1 << 18
PROXY_VARIABLES = ("http_proxy", "https_proxy")


def start_proxy_relay(path: str) -> None:
    """Start the relay and set the proxy variables for this process and its children.

    Args:
        path: The Unix socket of the egress proxy.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for name in PROXY_VARIABLES:
        os.environ[name] = os.environ[name.upper()] = proxy
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "localhost"  # the session's own servers
    threading.Thread(target=_accept, args=(listener, path), daemon=True, name="proxy-relay").start()


def _accept(listener: socket.socket, path: str) -> None:
    while True:
        client, _ = listener.accept()
        upstream = socket.socket(socket.AF_UNIX)
        try:
            upstream.connect(path)
        except OSError:
            client.close()
            upstream.close()
            continue
        for source, target in ((client, upstream), (upstream, client)):
            threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        while count := source.recv_into(buffer):
            target.sendall(buffer[:count])
    except OSError:  # one side has closed: the other must not wait for a reader
        ends, how = [source, target], socket.SHUT_RDWR
    else:
        ends, how = [target], socket.SHUT_WR
    for end in ends:
        with suppress(OSError):
            end.shutdown(how)
