"""A planted key does not appear in any output."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cci_plugins import CodeInterpreter, Execution, PlatformSessionPool
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.langchain import CodeInterpreterTool
from cci_plugins.redaction import know
from cci_plugins.testing import FakeSessionPool

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

KEY = "planted-4f1b6c0e9d7a-key-of-the-pool"
WRONG = "planted-wrong-77aa01-key-of-the-pool"
LOOK_AROUND = (
    "import os, glob\nprint(dict(os.environ))\n"
    "for path in glob.glob('/proc/*/environ') + glob.glob('/proc/*/cmdline'):\n"
    "    try: print(open(path, 'rb').read())\n"
    "    except OSError as error: print(error)"
)


@contextmanager
def serving() -> Iterator[tuple[str, list[str]]]:
    """Run `cci serve` with the key in its environment, and provide its URL and output."""
    written: list[str] = []
    command = [sys.executable, "-m", "cci_plugins", "serve", "--port", "0", "--json"]
    environment = {**os.environ, "CCI_SERVE_KEY": KEY, "CCI_READY_SESSIONS": "0"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        written.append(line)
        yield json.loads(line)["endpoint"], written
    finally:
        process.terminate()
        written += process.communicate(timeout=20)


def cci(url: str, *arguments: str, key: str = KEY) -> str:
    pool = {"AZURE_SESSION_POOL_MCP_ENDPOINT": url, "AZURE_SESSION_POOL_MCP_KEY": key}
    command = [sys.executable, "-m", "cci_plugins", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=110, env={**os.environ, **pool}
    )
    return done.stdout + done.stderr


async def test_the_key_appears_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    spans = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)  # the suite's own: tests.watching
    provider.add_span_processor(SimpleSpanProcessor(spans))
    seen: list[str] = []
    with caplog.at_level(logging.DEBUG), serving() as (url, written):
        pool = PlatformSessionPool(url, key=KEY)
        async with CodeInterpreter(pool, session_secret=KEY.encode()) as interpreter:
            session = interpreter.session("alice")
            codes = (LOOK_AROUND, "1/0", "import os; os._exit(1)", "1 + 1")
            seen += [repr(await session.run_code(code)) for code in codes]
            await session.files.upload(b"x", name="x.txt")
            seen += [repr(pool), repr(vars(pool)), repr(interpreter), repr(session)]
            seen.append(session.notebook())
            tool = CodeInterpreterTool(interpreter=interpreter)
            seen += [repr(tool), str(await tool.ainvoke({"code": LOOK_AROUND}))]
        async with CodeInterpreter(PlatformSessionPool(url, key=WRONG)) as interpreter:
            with pytest.raises(CodeInterpreterError) as caught:
                await interpreter.run_code("1")
            seen += traceback.format_exception(caught.value)
        arguments = ("run", "--json", f"{LOOK_AROUND}\n1/0")
        seen.append(await anyio.to_thread.run_sync(cci, url, *arguments))
        assert "ZeroDivisionError" in seen[-1]
        seen.append(cci(url, "--debug", "run", "1", key=WRONG))
    seen += written
    seen += [span.to_json() for span in spans.get_finished_spans()]
    seen.append(caplog.text)
    everything = "\n".join(seen)
    assert "execute_tool" in everything
    assert "ZeroDivisionError" in everything
    assert KEY not in everything
    assert WRONG not in everything


async def test_spans_contain_the_status_of_a_run_but_not_its_output() -> None:
    from opentelemetry.sdk.trace import TracerProvider

    from cci_plugins.core.spans import record_execution
    from cci_plugins.models import ErrorInfo

    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with provider.get_tracer("test").start_as_current_span("run") as span:
        record_execution(
            span,
            Execution(stdout="private", error=ErrorInfo("E", "private"), status="failed"),
        )
    (done,) = spans.get_finished_spans()
    assert done.attributes is not None
    assert done.attributes["cci.execution.status"] == "failed"
    assert done.attributes["error.type"] == "E"
    assert "private" not in done.to_json()


@pytest.mark.parametrize("switch", ["true", "SPAN_ONLY", "false", ""])
async def test_spans_contain_code_and_output_only_on_request_and_never_a_secret(
    switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    name = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    monkeypatch.setenv(name, switch)
    know(KEY)
    pool = FakeSessionPool(Execution(stdout=f"private {KEY}\n" + "x" * 50_000))
    async with CodeInterpreter(pool) as interpreter:
        await interpreter.run_code(f"print('{KEY}')")
    (span,) = [one for one in spans.get_finished_spans() if "execute_tool" in one.name]
    attributes = span.attributes or {}
    assert KEY not in span.to_json()
    if switch in {"true", "SPAN_ONLY"}:
        assert json.loads(str(attributes["gen_ai.tool.call.arguments"])) == {
            "code": "print('[redacted]')"
        }
        result = str(attributes["gen_ai.tool.call.result"])
        assert result.startswith("private [redacted]")
        assert len(result) <= 8_100
    else:
        assert "private" not in span.to_json()
        assert "print" not in span.to_json()
