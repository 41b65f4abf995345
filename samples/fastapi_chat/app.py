"""The chat back end, with one session for each conversation. A signed token names it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel, Field

from cci_plugins import CodeInterpreter
from cci_plugins.errors import (
    CodeInterpreterError,
    FileTooLargeError,
    PoolUnavailableError,
    UnsafeNameError,
)
from cci_plugins.langchain import CodeInterpreterTool
from samples.models import describe_failure, format_failure, open_langchain_model

LARGEST = 10 * 1024 * 1024  # bytes of a file, in and out
STATUSES = {UnsafeNameError: 400, FileTooLargeError: 413, PoolUnavailableError: 503}
SECRET = os.environ.get("CHAT_SECRET", "").encode() or secrets.token_bytes(32)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Create one interpreter and one agent for all users."""
    async with CodeInterpreter.from_env() as interpreter, open_langchain_model() as model:
        tools = [CodeInterpreterTool(interpreter=interpreter)]
        app.state.interpreter = interpreter
        app.state.agent = create_agent(model, tools=tools, checkpointer=InMemorySaver())
        yield


app = FastAPI(title="Chat with a code interpreter", lifespan=lifespan)


def sign(conversation: str) -> str:
    return hmac.new(SECRET, conversation.encode(), hashlib.sha256).hexdigest()


def read_conversation(authorization: Annotated[str, Header()] = "") -> str:
    """Return the conversation that the token was signed for, so that nobody can name another."""
    conversation, _, signed = authorization.removeprefix("Bearer ").partition(".")
    if not hmac.compare_digest(sign(conversation).encode(), signed.encode()):
        raise HTTPException(401, "The token is missing or was not issued here.")
    return conversation


Conversation = Annotated[str, Depends(read_conversation)]


class Question(BaseModel):
    """A question of a user."""

    text: str = Field(min_length=1, max_length=20_000)


@app.exception_handler(CodeInterpreterError)
async def report_failure(_: Request, error: CodeInterpreterError) -> JSONResponse:
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 502)
    return JSONResponse({"detail": str(error)}, status_code=status)


@app.post("/conversations", status_code=201)
async def start() -> dict[str, str]:
    """Start a conversation. Put your login in front of this."""
    conversation = secrets.token_hex(16)
    return {"token": f"{conversation}.{sign(conversation)}"}


@app.post("/chat")
async def chat(question: Question, conversation: Conversation) -> StreamingResponse:
    """Answer with server-sent events: `output` while code runs, then `answer` or `error`."""
    return StreamingResponse(
        stream_events(question.text, conversation), media_type="text/event-stream"
    )


async def stream_events(text: str, conversation: str) -> AsyncIterator[str]:
    config = {"configurable": {"thread_id": conversation}}
    last: Any = None
    try:
        question = {"messages": [("user", text)]}
        async for mode, chunk in app.state.agent.astream(
            question, config, stream_mode=["custom", "values"]
        ):
            if mode == "custom":
                yield format_event("output", chunk["text"])
            else:
                last = chunk["messages"][-1]
        yield format_event("answer", last.text)
    except Exception as error:  # noqa: BLE001  (the status was sent already, so the stream reports it)
        if failure := describe_failure(error):  # for the operator: a user need not know of keys
            print(format_failure(failure), file=sys.stderr, flush=True)
        yield format_event("error", f"The agent failed: {type(error).__name__}")


def format_event(kind: str, text: str) -> str:
    return f"event: {kind}\ndata: {json.dumps(text)}\n\n"


@app.put("/files/{name}", status_code=201)
async def upload(name: str, request: Request, conversation: Conversation) -> dict[str, Any]:
    """Upload the request's body into the session, unless it is too large."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST:
            raise HTTPException(413, f"A file may have at most {LARGEST} bytes.")
    session = app.state.interpreter.session(conversation)
    sent = await session.files.upload(bytes(content), name=name)
    return {"name": sent.name, "size": sent.size}


@app.get("/files/{name:path}")
async def download(name: str, conversation: Conversation) -> Response:
    """Return a file of the session, as a download and never as a page."""
    files = app.state.interpreter.session(conversation).files
    found = next((file for file in await files.list() if file.name == name), None)
    if found is None:
        raise HTTPException(404, "This conversation has no such file.")
    if found.size > LARGEST:
        raise HTTPException(413, f"A file may have at most {LARGEST} bytes.")
    content = await files.download(name)
    headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type="application/octet-stream", headers=headers)
