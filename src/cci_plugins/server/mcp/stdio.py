"""MCP over standard input and output: one client, one session, one process.

A large answer is encoded in a worker thread, as over HTTP, and written by another one. Other
requests of the connection are worked on meanwhile. Their answers wait, since there is one output.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterable, AsyncIterator, Generator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, contextmanager, suppress
from io import TextIOWrapper
from typing import Any

import anyio
import anyio.to_thread
from typing_extensions import override

from cci_plugins.common.durations import Duration
from cci_plugins.common.environment import Env, build_session_environment
from cci_plugins.common.limits import Limits
from cci_plugins.common.log import logger
from cci_plugins.files.file_transfer import FileOptions
from cci_plugins.pools.base import SessionPool
from cci_plugins.server.runs import RunRegistry

from .execute_code import ExecuteCodeTools
from .large_answers import LargeAnswers, collect_pieces, large_answers
from .messages import MessageError, format_line, parse_line
from .mounted_folder import MountedFolder
from .resources import FileResources
from .sdk import make_server
from .sessions import McpSessions, mcp_session_id
from .tools import PlatformTools

_MAX_BUFFERED_LINES = 16
_FORGET_SECONDS = 10.0  # after the end of a call, whose answer was received by the writer long ago


async def serve_stdio(
    pool: SessionPool,
    *,
    limits: Limits | None = None,
    files: FileOptions | None = None,
    file_links: bool = False,
    all_tools: bool = False,
    mounted: MountedFolder | None = None,
    wait: Duration | None = None,
    env: Env | None = None,
) -> None:
    """Answer one client until standard input closes.

    Standard output carries the protocol and nothing else. Whatever this process prints meanwhile
    goes to standard error.

    Args:
        pool: Where code runs. The caller starts and closes it.
        limits: The longest run, and how much a model may read.
        files: Where larger files are staged.
        file_links: Link the files that a run wrote in the answer of `execute_code`.
        all_tools: Offer the tools of a session pool too, which take an environment id.
        mounted: Folder whose files are copied into the client's session.
        wait: Longest time until a run is answered for, as for `create_app`.
        env: Variables for the code in every session, or None.

    Raises:
        ConfigurationError: The pool cannot run code in the background, which `wait` needs.
    """
    limits = Limits() if limits is None else limits
    variables = build_session_environment(env) if env else None
    mcp_sessions = McpSessions(pool, limits, files=files, env=variables)
    runs = RunRegistry()
    platform = None
    if all_tools:
        platform = PlatformTools(pool, limits, runs=runs, env=variables, wait=wait)
    tools = ExecuteCodeTools(
        platform, mcp_sessions, file_links=file_links, mounted=mounted, wait=wait
    )
    server = make_server(tools, FileResources(mcp_sessions), streams=True)
    token = mcp_session_id.set(mcp_sessions.create_id())
    try:
        async with runs.run():
            await _serve_client(server)
    except* BrokenPipeError:
        logger.info("the client closed standard output")
    finally:
        mcp_session_id.reset(token)
        with anyio.CancelScope(shield=True):
            await mcp_sessions.aclose()


async def _serve_client(server: Any) -> None:
    with _redirect_stdout() as output:
        lines, answers = _StdinLines(), _ConnectionAnswers()
        token = large_answers.set(answers)
        try:
            async with _open_streams(lines, output, answers) as (read, write):
                await server.run(read, write, server.create_initialization_options())
        finally:
            large_answers.reset(token)


class _ConnectionAnswers(LargeAnswers):
    """The large results of a connection. One whose call was cancelled is dropped unsent."""

    @override
    async def keep(self, fields: Mapping[str, Any]) -> str | None:
        kept = await super().keep(fields)
        call = asyncio.current_task()
        if kept is not None and call is not None:
            loop = asyncio.get_running_loop()
            call.add_done_callback(lambda _: loop.call_later(_FORGET_SECONDS, self.forget, kept))
        return kept


@asynccontextmanager
async def _open_streams(
    lines: AsyncIterable[str], output: TextIOWrapper, answers: LargeAnswers
) -> AsyncIterator[Any]:
    """Yield the streams of messages that the SDK reads from and writes to."""
    received, read = anyio.create_memory_object_stream[Any](0)
    write, sent = anyio.create_memory_object_stream[Any](0)
    writing = anyio.Lock()

    async def write_line(line: str) -> None:
        # at once, since a result that waits may be forgotten
        parts = answers.fill(line.encode()) or [line.encode()]
        async with writing:
            await anyio.to_thread.run_sync(_write_parts, output, parts)

    async def read_lines() -> None:
        async with received:
            async for line in lines:
                if line.strip():
                    await read_line(line)

    async def read_line(line: str) -> None:
        try:
            message = parse_line(line)
        except MessageError as error:
            await write_line(error.answer)
            return
        with suppress(anyio.BrokenResourceError):  # the server has ended
            await received.send(message)

    async def write_lines() -> None:
        async with sent:
            async for message in sent:
                await write_line(format_line(message))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_lines)
        tasks.start_soon(write_lines)
        yield read, write


def _write_parts(output: TextIOWrapper, parts: Sequence[bytes]) -> None:
    """Write one line."""
    for part in collect_pieces([*parts, b"\n"]):
        output.buffer.write(part)
    output.buffer.flush()


class _StdinLines:
    """Lines of standard input, read by a daemon thread.

    A worker thread of the event loop would block cancellation and exit: the program could not end
    before its client closes the pipe.
    """

    async def __aiter__(self) -> AsyncIterator[str]:
        send, receive = anyio.create_memory_object_stream[str](_MAX_BUFFERED_LINES)
        loop = asyncio.get_running_loop()

        def pump() -> None:
            # a separate reader, because the interpreter takes sys.stdin's lock at exit
            with os.fdopen(
                os.dup(sys.stdin.fileno()), encoding="utf-8", errors="replace"
            ) as source:
                try:
                    for line in source:
                        asyncio.run_coroutine_threadsafe(send.send(line), loop).result()
                    loop.call_soon_threadsafe(send.close)
                except (anyio.BrokenResourceError, CancelledError, RuntimeError):
                    return  # the event loop no longer reads

        threading.Thread(target=pump, name="cci-stdin", daemon=True).start()
        async with receive:
            async for line in receive:
                yield line


@contextmanager
def _redirect_stdout() -> Generator[TextIOWrapper]:
    """Yield standard output for the protocol. File descriptor 1 is standard error meanwhile."""
    sys.stdout.flush()
    private = os.dup(1)
    os.dup2(2, 1)
    output = TextIOWrapper(os.fdopen(private, "wb"), encoding="utf-8", newline="\n")
    try:
        yield output
    finally:
        sys.stdout.flush()
        os.dup2(private, 1)
        with suppress(BrokenPipeError):  # the client does not read the rest
            output.close()
