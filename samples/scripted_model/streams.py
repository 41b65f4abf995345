"""The same replies as server-sent events, in pieces as the real APIs send them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

PIECE = 24


def chat_events(reply: dict[str, Any], *, usage: bool) -> Iterator[str]:
    """A Chat Completions reply as chunks; `usage` adds the last one that counts tokens."""
    choice = reply["choices"][0]
    head = {**reply, "object": "chat.completion.chunk", "usage": None}
    for delta in _deltas(choice["message"]):
        yield _chunk({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    last = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    yield _chunk({**head, "choices": [last]})
    if usage:
        yield _chunk({**head, "choices": [], "usage": reply["usage"]})
    yield "data: [DONE]\n\n"


def responses_events(reply: dict[str, Any]) -> Iterator[str]:
    """A Responses reply as its typed events."""
    item = reply["output"][0]
    started = {**reply, "status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": started},
        {"type": "response.in_progress", "response": started},
        *(_call_events(item) if item["type"] == "function_call" else _message_events(item)),
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": reply},
    ]
    for number, event in enumerate(events):
        yield f"event: {event['type']}\n{_chunk({**event, 'sequence_number': number})}"


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None if message.get("tool_calls") else ""}
    for piece in _pieces(message["content"] or ""):
        yield {"content": piece}
    for call in message.get("tool_calls", ()):
        function = {"name": call["function"]["name"], "arguments": ""}
        yield {"tool_calls": [{"index": 0, **call, "function": function}]}
        for piece in _pieces(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}


def _call_events(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**item, "status": "in_progress", "arguments": ""}
    at = {"item_id": item["id"], "output_index": 0}
    kind = "response.function_call_arguments"
    yield {"type": "response.output_item.added", "output_index": 0, "item": begun}
    for piece in _pieces(item["arguments"]):
        yield {"type": f"{kind}.delta", **at, "delta": piece}
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield {"type": f"{kind}.done", **at, **done}


def _message_events(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    (part,) = item["content"]
    begun = {**item, "status": "in_progress", "content": []}
    at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    yield {"type": "response.output_item.added", "output_index": 0, "item": begun}
    yield {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
    for piece in _pieces(part["text"]):
        yield {"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **at, "part": part}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]


def _chunk(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
