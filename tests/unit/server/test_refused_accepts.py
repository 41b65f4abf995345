"""Connections that the system refuses fill no log."""

import asyncio
import errno
from typing import Any

import pytest

from cci_plugins.server.refused_accepts import report_refused_accepts

pytestmark = pytest.mark.anyio


async def test_refused_connections_are_reported_once_with_the_next_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop, others = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda _, context: others.append(context["message"]))
    error = OSError(errno.EMFILE, "Too many open files")
    try:
        with report_refused_accepts(loop):
            for _ in range(100):
                message = "socket.accept() out of system resource"
                loop.call_exception_handler({"message": message, "exception": error})
            loop.call_exception_handler({"message": "another"})
        loop.call_exception_handler({"message": "later"})
    finally:
        loop.set_exception_handler(None)
    assert others == ["another", "later"]
    (record,) = caplog.records
    assert "Too many open files" in record.getMessage()
    assert "ulimit -n" in record.getMessage()
