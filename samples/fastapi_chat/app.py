"""The chat back end: one session per conversation, and a signed token names the conversation."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
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
from samples.models import langchain_model

LARGEST = 10 * 1024 * 1024  # bytes of a file, in and out
STATUSES = {UnsafeNameError: 400, FileTooLargeError: 413, PoolUnavailableError: 503}
SECRET = os.environ.get("CHAT_SECRET", "").encode() or secrets.token_bytes(32)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One interpreter and one agent for all users."""
    async with CodeInterpreter.from_env() as interpreter, langchain_model() as model:
        tools = [CodeInterpreterTool(interpreter=interpreter)]
        app.state.interpreter = interpreter
        app.state.agent = create_agent(model, tools=tools, checkpointer=InMemorySaver())
        yield


app = FastAPI(title="Chat with a code interpreter", lifespan=lifespan)


def signature(conversation: str) -> str:
    return hmac.new(SECRET, conversation.encode(), hashlib.sha256).hexdigest()


def authenticated(authorization: Annotated[str, Header()] = "") -> str:
    """The conversation a token was signed for; nobody can name another's."""
    conversation, _, signed = authorization.removeprefix("Bearer ").partition(".")
    if not hmac.compare_digest(signature(conversation).encode(), signed.encode()):
        raise HTTPException(401, "The token is missing or was not issued here.")
    return conversation


Conversation = Annotated[str, Depends(authenticated)]


class Question(BaseModel):
    """What a user asks."""

    text: str = Field(min_length=1, max_length=20_000)


@app.exception_handler(CodeInterpreterError)
async def failed(_: Request, error: CodeInterpreterError) -> JSONResponse:
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 502)
    return JSONResponse({"detail": str(error)}, status_code=status)


@app.post("/conversations", status_code=201)
async def start() -> dict[str, str]:
    """Begin a conversation. Put your login in front of this."""
    conversation = secrets.token_hex(16)
    return {"token": f"{conversation}.{signature(conversation)}"}


@app.post("/chat")
async def chat(question: Question, conversation: Conversation) -> StreamingResponse:
    """Answer by server-sent events: `output` while code runs, then `answer` or `error`."""
    return StreamingResponse(events(question.text, conversation), media_type="text/event-stream")


async def events(text: str, conversation: str) -> AsyncIterator[str]:
    config = {"configurable": {"thread_id": conversation}}
    last: Any = None
    try:
        asked = {"messages": [("user", text)]}
        async for mode, chunk in app.state.agent.astream(
            asked, config, stream_mode=["custom", "values"]
        ):
            if mode == "custom":
                yield event("output", chunk["text"])
            else:
                last = chunk["messages"][-1]
        yield event("answer", last.text)
    except Exception as error:  # noqa: BLE001  (the status was sent; the stream must tell)
        yield event("error", f"The agent failed: {type(error).__name__}")


def event(kind: str, text: str) -> str:
    return f"event: {kind}\ndata: {json.dumps(text)}\n\n"


@app.put("/files/{name}", status_code=201)
async def upload(name: str, request: Request, conversation: Conversation) -> dict[str, Any]:
    """Put the request's body into the session, if it is not too large."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > LARGEST:
            raise HTTPException(413, f"A file may have {LARGEST} bytes.")
    session = app.state.interpreter.session(conversation)
    sent = await session.files.upload(bytes(content), name=name)
    return {"name": sent.name, "size": sent.size}


@app.get("/files/{name:path}")
async def download(name: str, conversation: Conversation) -> Response:
    """Hand a file of the session over, as a download and never as a page."""
    files = app.state.interpreter.session(conversation).files
    found = next((file for file in await files.list() if file.name == name), None)
    if found is None:
        raise HTTPException(404, "There is no such file in this conversation.")
    if found.size > LARGEST:
        raise HTTPException(413, f"A file may have {LARGEST} bytes.")
    content = await files.download(name)
    headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type="application/octet-stream", headers=headers)
