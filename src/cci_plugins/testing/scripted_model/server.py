"""The HTTP server of the scripted model, on a free loopback port, in its own thread."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, cast

from typing_extensions import override

from . import apis
from .script import Script, ScriptedCall, Turn
from .streams import build_chat_events, build_responses_events

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
POLL_SECONDS = 0.02
EVENTS = "text/event-stream"
BAD_REQUEST = (apis.BadRequestError, AttributeError, KeyError, TypeError, ValueError)


class ScriptedModel:
    """A model server for one script. Use it in a `with` statement.

    It answers OpenAI's Chat Completions and Responses on a free port of 127.0.0.1, so that the
    client of every framework can use it. It is for tests and examples, not for a network.

    Args:
        script: The script, or the code that the model runs for every question.

    Attributes:
        url: The base URL, in the form of `OPENAI_BASE_URL`.
        key: A key that the server accepts. It accepts every key.
        requests: Path and body of every request, in order.

    Example:
        ```python
        with ScriptedModel("6 * 7") as model:
            print(model.url)  # http://127.0.0.1:.../v1
        ```
    """

    key = "none-needed"

    def __init__(self, script: Script | str) -> None:
        self.script = Script((Turn("", script),)) if isinstance(script, str) else script
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._kept: dict[str, list[Any]] = {}
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to one request."""
        self.requests.append((path, body))
        chat = path == CHAT
        items = [] if chat else apis.collect_items(body, self._kept)
        request = apis.read_chat(body) if chat else apis.read_responses(body, items)
        step = self.script.reply(request)
        if isinstance(step, ScriptedCall):
            name = request.find_tool(step.name)
            if name is None:
                raise apis.BadRequestError(
                    f"the script wants to call {step.name or 'a tool for code'!r}, but it was "
                    "not offered"
                )
            step = replace(step, name=name)
        write = apis.build_chat_reply if chat else apis.build_responses_reply
        reply = write(body["model"], step)
        if not chat and body.get("store") is not False:
            self._kept[reply["id"]] = [*items, *reply["output"]]
        return reply


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, model: ScriptedModel) -> None:
        self.model = model
        super().__init__(("127.0.0.1", 0), _Handler)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path not in {CHAT, RESPONSES}:
            self._send(404, _build_error(f"unknown path: {self.path}"))
        elif not self.headers.get("Authorization", "").startswith("Bearer "):
            self._send(401, _build_error("no API key"))
        else:
            self._answer(data)

    def _answer(self, data: bytes) -> None:
        try:
            body = json.loads(data)
            reply = cast("_Server", self.server).model.reply(self.path, body)
        except BAD_REQUEST as error:
            self._send(400, _build_error(str(error)))
            return
        if not body.get("stream"):
            self._send(200, reply)
        elif self.path == CHAT:
            usage = (body.get("stream_options") or {}).get("include_usage", False)
            self._send_text(200, EVENTS, "".join(build_chat_events(reply, usage=usage)))
        else:
            self._send_text(200, EVENTS, "".join(build_responses_events(reply)))

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self._send_text(status, "application/json", json.dumps(body))

    def _send_text(self, status: int, media_type: str, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing to stderr."""


def _build_error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}
