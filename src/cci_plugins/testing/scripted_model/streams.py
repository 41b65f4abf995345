"""The replies as server-sent events, in chunks like those of the real APIs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

CHUNK = 24


def build_chat_events(reply: dict[str, Any], *, usage: bool) -> Iterator[str]:
    """Yield a Chat Completions reply in chunks. `usage` adds a last one with the token counts."""
    choice = reply["choices"][0]
    head = {**reply, "object": "chat.completion.chunk", "usage": None}
    for delta in _build_deltas(choice["message"]):
        yield _format_event(
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        )
    last = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    yield _format_event({**head, "choices": [last]})
    if usage:
        yield _format_event({**head, "choices": [], "usage": reply["usage"]})
    yield "data: [DONE]\n\n"


def build_responses_events(reply: dict[str, Any]) -> Iterator[str]:
    """Yield a Responses reply as its typed events."""
    item = reply["output"][0]
    started = {**reply, "status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": started},
        {"type": "response.in_progress", "response": started},
        *(
            _build_call_events(item)
            if item["type"] == "function_call"
            else _build_message_events(item)
        ),
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": reply},
    ]
    for number, event in enumerate(events):
        yield f"event: {event['type']}\n{_format_event({**event, 'sequence_number': number})}"


def _build_deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None if message.get("tool_calls") else ""}
    for chunk in _split(message["content"] or ""):
        yield {"content": chunk}
    for call in message.get("tool_calls", ()):
        function = {"name": call["function"]["name"], "arguments": ""}
        yield {"tool_calls": [{"index": 0, **call, "function": function}]}
        for chunk in _split(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": chunk}}]}


def _build_call_events(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**item, "status": "in_progress", "arguments": ""}
    at = {"item_id": item["id"], "output_index": 0}
    kind = "response.function_call_arguments"
    yield {"type": "response.output_item.added", "output_index": 0, "item": begun}
    for chunk in _split(item["arguments"]):
        yield {"type": f"{kind}.delta", **at, "delta": chunk}
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield {"type": f"{kind}.done", **at, **done}


def _build_message_events(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    (part,) = item["content"]
    begun = {**item, "status": "in_progress", "content": []}
    at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    yield {"type": "response.output_item.added", "output_index": 0, "item": begun}
    yield {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
    for chunk in _split(part["text"]):
        yield {"type": "response.output_text.delta", **at, "delta": chunk, "logprobs": []}
    yield {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **at, "part": part}


def _split(text: str) -> Iterator[str]:
    for start in range(0, len(text), CHUNK):
        yield text[start : start + CHUNK]


def _format_event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
