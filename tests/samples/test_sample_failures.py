"""A sample whose model cannot answer ends with one line and the next step, not with a traceback."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import openai
import pytest
from samples import models
from tests.samples.running import ROOT, run

from cci_plugins.errors import PoolError

REQUEST = httpx.Request("POST", "https://api.example.com/v1/responses")


def status_error(status: int, code: str | None = None) -> openai.APIStatusError:
    kinds = {401: openai.AuthenticationError, 404: openai.NotFoundError, 429: openai.RateLimitError}
    response = httpx.Response(status, request=REQUEST)
    kind = kinds.get(status, openai.APIStatusError)
    return kind("sk-secret was refused", response=response, body={"code": code})


@pytest.fixture(autouse=True)
def _no_azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in models.AZURE:
        monkeypatch.delenv(name, raising=False)
    levels = [(logger, logger.level) for logger in map(logging.getLogger, (None, "cci_plugins"))]
    yield
    for logger, level in levels:
        logger.setLevel(level)


@pytest.mark.parametrize(
    ("error", "message", "step"),
    [
        (status_error(401), "the provider refused the key (HTTP 401)", "check OPENAI_API_KEY"),
        (status_error(429, "insufficient_quota"), "no quota is left", "add credit"),
        (status_error(429), "too many requests (HTTP 429)", "wait a minute"),
        (status_error(404), "the provider has no model", "set OPENAI_MODEL"),
        (status_error(500), "the request failed (HTTP 500)", "try again later"),
        (
            openai.APIConnectionError(request=REQUEST),
            "the model's server at api.example.com cannot be reached",
            "check the network, the proxy and OPENAI_BASE_URL",
        ),
        (PoolError("the pool failed", hint="run cci doctor"), "the pool failed", "run cci doctor"),
        (EOFError(), "nobody answered the question", "run the sample in a terminal"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failure_of_the_model_or_the_pool_is_one_line_and_a_next_step(
    error: Exception, message: str, step: str
) -> None:
    async def main() -> None:
        wrapped = RuntimeError("the framework failed")
        wrapped.__cause__ = error
        raise ExceptionGroup("group", [wrapped])

    with pytest.raises(SystemExit) as ended:
        models.run_sample(main)
    text = str(ended.value)
    assert text.startswith("error: ")
    what, empty, hint = text.splitlines()
    assert (message in what, empty, step in hint) == (True, "", True), text
    assert "sk-secret" not in text


def test_an_error_of_the_sample_itself_keeps_its_traceback() -> None:
    async def main() -> None:
        await asyncio.sleep(0)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        models.run_sample(main)


class Refuse(BaseHTTPRequestHandler):
    """Answers every request like a provider that does not know the key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"error": {"message": "no", "code": "invalid_api_key"}}).encode()
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[Callable[..., str]]:
    """Run a command against a provider that refuses the key, and return its stderr."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        Thread(target=server.serve_forever, daemon=True).start()

        def call(*command: str, cwd: Path) -> str:
            url = f"http://127.0.0.1:{server.server_port}/v1"
            done = run(*command, cwd=cwd, OPENAI_API_KEY="sk-wrong", OPENAI_BASE_URL=url)
            assert done.returncode == 1, done.stderr
            return done.stderr

        yield call
        server.shutdown()


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize(
    "command",
    [
        ("05_langchain.py",),
        ("08_agent_framework.py",),
        ("09_openai_agents.py",),
        ("-m", "samples.semantic_kernel_group"),
        ("-m", "samples.demo"),
    ],
    ids=lambda command: command[-1],
)
def test_each_framework_s_sample_reports_a_refused_key(
    command: tuple[str, ...], refusing: Callable[..., str], tmp_path: Path
) -> None:
    if command[0] != "-m":
        command = (str(ROOT / "samples" / command[0]),)
    error = refusing(*command, cwd=tmp_path)
    assert error.splitlines() == [
        "error: the model did not answer: the provider refused the key (HTTP 401)",
        "",
        "hint: check OPENAI_API_KEY, or unset OPENAI_API_KEY to use the scripted model",
    ]
