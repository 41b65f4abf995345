"""The requests and replies of Chat Completions and Responses, with the same refusals."""

from __future__ import annotations

import json
import time
from secrets import token_hex
from typing import Any

from .script import ModelRequest, ScriptedCall

SYSTEM = {"developer", "system"}
ROLES = {"assistant", "user", *SYSTEM}
PARAMETERS = ("code", "command")
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


class BadRequestError(ValueError):
    """A request that the real API answers with 400."""


def text_of(content: Any) -> str:
    """Return the text of a message, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    parts = [part.get("text", "") for part in content or [] if isinstance(part, dict)]
    return "".join(parts)


def read_tools(tools: Any) -> tuple[str | None, str, tuple[str, ...]]:
    """Return the tool that takes code or else a command, that parameter, and all names."""
    found: dict[str, str] = {}
    names: list[str] = []
    for tool in tools or []:
        function = tool.get("function", tool)
        if tool.get("type") != "function" or not function.get("name"):
            raise BadRequestError("a tool needs a type and a name")
        names.append(str(function["name"]))
        taken = (function.get("parameters") or {}).get("properties", {})
        for parameter in filter(taken.__contains__, PARAMETERS):
            found.setdefault(parameter, names[-1])
    parameter = next(filter(found.__contains__, PARAMETERS), PARAMETERS[0])
    return found.get(parameter), parameter, tuple(names)


def read_chat(body: dict[str, Any]) -> ModelRequest:
    """Read a Chat Completions request. Its tool messages must answer its calls."""
    messages = body.get("messages")
    if not messages or not body.get("model"):
        raise BadRequestError("model and messages are required")
    waiting: set[str] = set()
    question, result, results = "", None, list[str]()
    for message in messages:
        if message["role"] == "tool":
            if message.get("tool_call_id") not in waiting:
                raise BadRequestError("a tool message must answer a tool call before it")
            waiting.remove(message["tool_call_id"])
            _require_text(message["content"])
            result = text_of(message["content"])
            results.append(result)
            continue
        if waiting:
            raise BadRequestError("tool calls must be followed by a tool message each")
        if message["role"] not in ROLES:
            raise BadRequestError(f"no such role: {message['role']}")
        results = [] if _is_question(message, result) else results
        question, result = _update_question(message, question, result)
        waiting = {call["id"] for call in message.get("tool_calls") or []}
    if waiting:
        raise BadRequestError("tool calls must be followed by a tool message each")
    systems = [text_of(one["content"]) for one in messages if one["role"] in SYSTEM]
    code_tool, parameter, names = read_tools(body.get("tools"))
    instructions = "\n".join(systems)
    return ModelRequest(question, code_tool, result, instructions, names, tuple(results), parameter)


def collect_items(body: dict[str, Any], kept: dict[str, list[Any]]) -> list[Any]:
    """Return all items of a Responses request: the stored ones and the new ones."""
    items = body.get("input")
    if not items or not body.get("model"):
        raise BadRequestError("model and input are required")
    earlier = body.get("previous_response_id")
    if earlier is not None and earlier not in kept:
        raise BadRequestError(f"previous response with id {earlier!r} not found")
    items = [{"role": "user", "content": items}] if isinstance(items, str) else items
    return [*kept.get(earlier or "", []), *items]


def read_responses(body: dict[str, Any], items: list[Any]) -> ModelRequest:
    """Read a Responses request. Its outputs must answer its calls."""
    waiting: set[str] = set()
    question, result, results = "", None, list[str]()
    for item in items:
        if item.get("type") == "function_call":
            waiting.add(item["call_id"])
        elif item.get("type") == "function_call_output":
            if item["call_id"] not in waiting:
                raise BadRequestError("an output must answer a function call before it")
            waiting.remove(item["call_id"])
            result = text_of(item["output"])
            results.append(result)
        else:
            results = [] if _is_question(item, result) else results
            question, result = _update_question(item, question, result)
    if waiting:
        raise BadRequestError(f"no tool output found for function call {min(waiting)}")
    code_tool, parameter, names = read_tools(body.get("tools"))
    instructions = body.get("instructions") or ""
    return ModelRequest(question, code_tool, result, instructions, names, tuple(results), parameter)


def _update_question(
    message: dict[str, Any], question: str, result: str | None
) -> tuple[str, str | None]:
    """Return the last question and the tool's result, after one more message."""
    if message.get("role") == "assistant":
        return question, None
    if _is_question(message, result):
        return text_of(message["content"]), None
    return question, result


def _is_question(message: dict[str, Any], result: str | None) -> bool:
    """Return whether a message is a question. Right after a result, it belongs to the result."""
    return message.get("role") == "user" and result is None


def _require_text(content: Any) -> None:
    """Raise an error for images, which Chat Completions accepts from users only."""
    parts = [] if isinstance(content, str) else content or []
    if any(part.get("type") != "text" for part in parts):
        raise BadRequestError("image URLs are only allowed for messages with role 'user'")


def build_chat_reply(model: str, step: ScriptedCall | str) -> dict[str, Any]:
    """Build a Chat Completions reply."""
    message: dict[str, Any] = {"role": "assistant", "content": step}
    reason = "stop"
    if isinstance(step, ScriptedCall):
        function = {"name": step.name, "arguments": json.dumps(dict(step.arguments))}
        call = {"id": f"call_{token_hex(8)}", "type": "function", "function": function}
        message |= {"content": None, "tool_calls": [call]}
        reason = "tool_calls"
    return {
        "id": f"chatcmpl-{token_hex(8)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": USAGE,
    }


def build_responses_reply(model: str, step: ScriptedCall | str) -> dict[str, Any]:
    """Build a Responses reply."""
    item: dict[str, Any] = {"id": f"item_{token_hex(8)}", "status": "completed"}
    if isinstance(step, ScriptedCall):
        arguments = json.dumps(dict(step.arguments))
        call = {"call_id": f"call_{token_hex(8)}", "name": step.name, "arguments": arguments}
        item |= {"type": "function_call", **call}
    else:
        part: dict[str, Any] = {"type": "output_text", "text": step, "annotations": []}
        item |= {"type": "message", "role": "assistant", "content": [part]}
    return {
        "id": f"resp_{token_hex(8)}",
        "object": "response",
        "created_at": int(time.time()),
        "model": model,
        "status": "completed",
        "output": [item],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        | {"input_tokens_details": {"cached_tokens": 0}}
        | {"output_tokens_details": {"reasoning_tokens": 0}},
    }
