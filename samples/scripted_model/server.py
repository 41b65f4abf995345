"""The HTTP side, on a free loopback port, in a thread of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from . import apis
from .script import Script


class ScriptedModel:
    """A model server for one script; use it in a `with` statement.

    Attributes:
        url: The base URL, as `OPENAI_BASE_URL` wants it.
        requests: Path and body of every request, in order.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
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
        """The reply to one request."""
        self.requests.append((path, body))
        chat = path.endswith("/chat/completions")
        asked = apis.read_chat(body) if chat else apis.read_responses(body)
        code, text = self.script.reply(asked)
        if code is not None and asked.tool is None:
            raise apis.BadRequestError("the script wants to run code, but no tool was offered")
        write = apis.chat_reply if chat else apis.responses_reply
        return write(body["model"], asked.tool, code, text)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.headers.get("Authorization", "").startswith("Bearer "):
                    self._send(401, _error("no API key"))
                    return
                try:
                    reply = model.reply(self.path, body)
                except (apis.BadRequestError, KeyError, TypeError) as error:
                    self._send(400, _error(str(error)))
                    return
                if body.get("stream") and reply["object"] == "chat.completion":
                    self._send_events(apis.chat_chunks(reply))
                elif body.get("stream"):
                    self._send(400, _error("streaming Responses are not scripted"))
                else:
                    self._send(200, reply)

            def _send(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _send_events(self, chunks: list[dict[str, Any]]) -> None:
                data = "".join(_events(chunks)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Say nothing on stderr."""

        return Handler


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


def _events(chunks: list[dict[str, Any]]) -> Iterator[str]:
    for chunk in chunks:
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"
