"""Signatures of host tools as Python text, rendered from their JSON schemas.

One renderer serves every adapter's description and the `help(tools.NAME)` of a session. The text
is for a model, so it is compact and total: a schema that it does not understand is `Any`.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cci_plugins.pools.tool_host import ToolParameter, ToolSpec

from .host_tools import HostTool
from .tool_schema import accepts_more

DESCRIPTION_CHARACTERS = 4_000  # of all tools in the description of `execute_code`
_MAX_DEPTH = 3
_MAX_CHOICES = 8
_MAX_KEYS = 12
_MAX_SENTENCE = 200
_MAX_DEFAULT = 60
_DOCUMENTATION_CHARACTERS = 8_000  # of one tool
_NAMES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_SENTENCE = re.compile(r"(.+?[.!?])(?:\s|$)", re.DOTALL)
_INTRODUCTION = (
    "The code can call these functions of the application, and no others of it. They take and "
    "return JSON data:"
)
_USAGE = (
    "Call one as shown, or several at once by asyncio.gather of tools.acall('NAME', ...). "
    "help(tools.NAME) shows the details. A failed call raises an exception."
)


def describe_tools(tools: Sequence[HostTool], characters: int = DESCRIPTION_CHARACTERS) -> str:
    """Return the text about a run's tools for the description of `execute_code`.

    Each tool has a line with its signature and its first sentence. Over the budget, the sentences
    go first, then the types, then the last names.

    Args:
        tools: The tools. Without any, the text is empty.
        characters: Most characters of the lines.
    """
    if not tools:
        return ""
    specs = [build_spec(tool) for tool in tools]
    sentences = [get_first_sentence(tool.description) for tool in tools]
    lines = [
        f"- {format_signature(spec)}{': ' + sentence if sentence else ''}"
        for spec, sentence in zip(specs, sentences, strict=True)
    ]
    if _count(lines) > characters:
        lines = [f"- {format_signature(spec)}" for spec in specs]
    if _count(lines) > characters:
        lines = [f"- tools.{spec.name}({', '.join(_list_names(spec))})" for spec in specs]
    return "\n".join([_INTRODUCTION, *_cut_lines(lines, characters), _USAGE])


def build_spec(tool: HostTool) -> ToolSpec:
    """Build what a session shows of a tool."""
    schema = tool.parameters_schema
    required = set(schema.get("required", ()))
    parameters = [
        ToolParameter(
            name,
            render_type(value, schema),
            None if name in required else _render_default(value),
        )
        for name, value in schema.get("properties", {}).items()
    ]
    return ToolSpec(
        tool.name,
        tuple(sorted(parameters, key=lambda one: one.default is not None)),
        "Any" if tool.result_schema is None else render_type(tool.result_schema),
        _build_documentation(tool)[:_DOCUMENTATION_CHARACTERS],
        accepts_more(schema),
    )


def format_signature(spec: ToolSpec) -> str:
    """Return the signature of a tool, such as `tools.find(text: str, limit: int = 10) -> Any`."""
    plain = [one for one in spec.parameters if one.name.isidentifier()]
    other = [one for one in spec.parameters if not one.name.isidentifier()]
    parts = [_format_parameter(one) for one in plain]
    if other:
        keys = ", ".join(f"{one.name!r}: {one.annotation}" for one in other)
        parts.append(f"**{{{keys}}}")
    if spec.accepts_more:
        parts.append("**more")
    result = "" if spec.returns == "Any" else f" -> {spec.returns}"
    return f"tools.{spec.name}({', '.join(parts)}){result}"


def get_first_sentence(text: str) -> str:
    """Return the first sentence of a description, on one line."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    match = _SENTENCE.match(paragraph)
    sentence = match[1] if match else paragraph
    return sentence if len(sentence) <= _MAX_SENTENCE else f"{sentence[: _MAX_SENTENCE - 3]}..."


def render_type(schema: Any, root: Mapping[str, Any] | None = None, depth: int = 0) -> str:
    """Return a JSON schema as a Python type.

    Args:
        schema: The schema.
        root: The schema with the definitions that `$ref` refers to. None means `schema` itself.
        depth: How many schemas are around it.
    """
    if not isinstance(schema, Mapping):
        return "Any"
    root = schema if root is None else root
    if depth <= _MAX_DEPTH and (text := _render_choice(schema, root, depth)) is not None:
        return text
    kind = schema.get("type")
    if isinstance(kind, list):
        return _join(render_type({**schema, "type": one}, root, depth) for one in kind)
    if kind == "array":
        items = "Any" if depth >= _MAX_DEPTH else render_type(schema.get("items"), root, depth + 1)
        return "list" if items == "Any" else f"list[{items}]"
    if kind == "object" or (kind is None and "properties" in schema):
        return _render_object(schema, root, depth)
    return _NAMES.get(str(kind), "Any")


def _render_choice(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str | None:
    """Return the type of a schema that refers to other schemas or lists its values, or None."""
    if "$ref" in schema:
        return render_type(_resolve(schema["$ref"], root), root, depth + 1)
    if "const" in schema:
        return _render_values([schema["const"]])
    if isinstance(schema.get("enum"), list):
        return _render_values(schema["enum"])
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return _join(render_type(one, root, depth + 1) for one in schema[key])
    if isinstance(schema.get("allOf"), list) and len(schema["allOf"]) == 1:
        return render_type(schema["allOf"][0], root, depth + 1)
    return None


def _render_object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and 0 < len(properties) <= _MAX_KEYS and depth < _MAX_DEPTH:
        required = schema.get("required", ())
        keys = []
        for name, value in properties.items():
            text = render_type(value, root, depth + 1)
            keys.append(f"{name!r}: {text if name in required else f'NotRequired[{text}]'}")
        return f"{{{', '.join(keys)}}}"
    more = schema.get("additionalProperties")
    if not properties and isinstance(more, Mapping) and more:
        return f"dict[str, {render_type(more, root, depth + 1)}]"
    return "dict"


def _resolve(reference: object, root: Mapping[str, Any]) -> Any:
    found: Any = root
    parts = str(reference).removeprefix("#").strip("/").split("/")
    for part in filter(None, parts):
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _render_values(values: list[Any]) -> str:
    if len(values) > _MAX_CHOICES:
        kinds = {type(value).__name__ for value in values}
        return kinds.pop() if len(kinds) == 1 else "Any"
    return f"Literal[{', '.join(repr(value)[:_MAX_DEFAULT] for value in values)}]"


def _join(parts: Iterator[str]) -> str:
    names = list(dict.fromkeys(parts))
    return "Any" if "Any" in names or not names else " | ".join(names)


def _render_default(schema: Any) -> str:
    if not isinstance(schema, Mapping) or "default" not in schema:
        return "..."
    text = repr(schema["default"])
    return text if len(text) <= _MAX_DEFAULT else "..."


def _format_parameter(parameter: ToolParameter) -> str:
    default = "" if parameter.default is None else f" = {parameter.default}"
    return f"{parameter.name}: {parameter.annotation}{default}"


def _list_names(spec: ToolSpec) -> list[str]:
    return [one.name if one.default is None else f"{one.name}=..." for one in spec.parameters]


def _build_documentation(tool: HostTool) -> str:
    parts = [tool.description.strip()]
    described = []
    for name, schema in tool.parameters_schema.get("properties", {}).items():
        text = schema.get("description") if isinstance(schema, Mapping) else None
        if isinstance(text, str) and text.strip():
            described.append(textwrap.indent(f"{name}: {' '.join(text.split())}", "    "))
    if described:
        parts.append("\n".join(["Arguments:", *described]))
    schema = {key: value for key, value in tool.parameters_schema.items() if key != "description"}
    parts.append(f"JSON schema of the arguments: {json.dumps(schema, ensure_ascii=False)}")
    return "\n\n".join(part for part in parts if part)


def _count(lines: list[str]) -> int:
    return sum(len(line) + 1 for line in lines)


def _cut_lines(lines: list[str], characters: int) -> list[str]:
    kept: list[str] = []
    for line in lines:
        if _count(kept) + len(line) + 1 > characters:
            return [*kept, f"- and {len(lines) - len(kept)} more: print(dir(tools))"]
        kept.append(line)
    return kept
