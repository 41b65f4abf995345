"""The result of a tool call, in MCP's fields: `ToolCallResult`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCallResult:
    """Result of a tool call, in MCP's fields."""

    content: list[dict[str, Any]]
    structured: dict[str, Any] | None = None
    is_error: bool = False
    meta: dict[str, Any] = field(default_factory=dict)


def build_json_result(fields: dict[str, Any]) -> ToolCallResult:
    """Return the fields twice, structured and as text."""
    text = json.dumps(fields, ensure_ascii=False)
    return ToolCallResult([{"type": "text", "text": text}], fields)
