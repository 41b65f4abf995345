"""What a Bicep template creates: its resources and outputs, for given parameters.

It knows the part of the language that `infra/` is written in, and refuses the rest. What only Azure
knows, such as an endpoint that it gives, stands in a value as `{name:properties.endpoint}`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tree_sitter
import tree_sitter_bicep

from . import bicep_functions
from .bicep_functions import GROUP

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "infra" / "main.bicep"

_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bicep.language()))
_TYPES = {"string": str, "int": int, "bool": bool, "object": dict, "array": list}
_ESCAPES = {"\\'": "'", "\\\\": "\\", "\\n": "\n", "\\r": "\r", "\\t": "\t", "\\$": "$"}
_ABOUT_THE_RESOURCE = {"name", "parent", "scope", "dependsOn"}

Node = tree_sitter.Node


class TemplateError(Exception):
    """The template cannot be deployed so, or says what this evaluator does not know."""


@dataclass(frozen=True)
class Resource:
    """One resource, as Azure Resource Manager gets it.

    Attributes:
        type: Full type, such as `Microsoft.App/sessionPools`.
        api_version: Version of the API that creates it.
        name: Names of its parents and its own, with slashes between.
        scope: Id of the resource that it extends, for a role assignment.
        body: The rest: `location`, `tags`, `properties` and so on; what is null is left out.
    """

    type: str
    api_version: str
    name: str
    scope: str | None
    body: dict[str, Any]

    @property
    def id(self) -> str:
        """Resource id."""
        provider, *types = self.type.split("/")
        path = "/".join(
            f"{kind}/{name}" for kind, name in zip(types, self.name.split("/"), strict=True)
        )
        return f"{self.scope or GROUP['id']}/providers/{provider}/{path}"


@dataclass(frozen=True)
class Parameter:
    """A parameter as it is declared."""

    name: str
    type: str
    description: str | None
    secure: bool
    required: bool


@dataclass
class Deployment:
    """What a template makes."""

    resources: list[Resource] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)

    def of(self, kind: str) -> list[Resource]:
        """The resources of a type."""
        return [resource for resource in self.resources if resource.type == kind]

    def one(self, kind: str) -> Resource:
        """The only resource of a type."""
        (resource,) = self.of(kind)
        return resource


@dataclass(frozen=True)
class _Known:
    """A part of a resource: what the template says of it, or else a place that Azure fills."""

    place: str
    stated: Any

    def member(self, name: str) -> Any:
        stated = self.stated.get(name) if isinstance(self.stated, dict) else None
        place = f"{self.place}.{name}"
        return _Known(place, stated) if stated is None or isinstance(stated, dict) else stated

    def __str__(self) -> str:
        return "{" + self.place + "}"


class _Absent:
    """A resource or module whose condition does not hold."""


def parse(path: Path) -> Node:
    """The tree of a file.

    Raises:
        TemplateError: It is not well formed.
    """
    return _parsed(path.read_bytes(), str(path))


@functools.cache
def _parsed(source: bytes, place: str) -> Node:
    root = _PARSER.parse(source).root_node
    if wrong := errors(root):
        raise TemplateError(f"{place}: {wrong}")
    return root


def errors(node: Node) -> list[str]:
    """What is not well formed below a node: line and text."""
    own = node.type == "ERROR" or node.is_missing
    found = [f"line {node.start_point.row + 1}: {_text(node)[:60]}"] if own else []
    return found + [wrong for child in node.children for wrong in errors(child)]


def parsed(source: bytes) -> Node:
    """The tree of some source, with its errors."""
    return _PARSER.parse(source).root_node


def parameters(path: Path) -> list[Parameter]:
    """The parameters that a file declares."""
    found = []
    for declaration, decorators in _declarations(parse(path)):
        if declaration.type == "parameter_declaration":
            name, kind, *default = _named(declaration)
            stated = {_call_name(call): call for call in decorators}
            about = stated.get("description")
            words = None if about is None else _words(_arguments(about)[0])
            secure = "secure" in stated
            found.append(Parameter(_text(name), _text(kind), words, secure, not default))
    return found


def described(path: Path) -> dict[str, str | None]:
    """The outputs of a file, and what it says of each."""
    found = {}
    for declaration, decorators in _declarations(parse(path)):
        if declaration.type == "output_declaration":
            stated = {_call_name(call): _words(_arguments(call)[0]) for call in decorators}
            found[_text(_named(declaration)[0])] = stated.get("description")
    return found


def deploy(values: Mapping[str, Any] | None = None, *, path: Path = MAIN) -> Deployment:
    """What a template makes with these parameters, in a resource group that is always the same.

    Raises:
        TemplateError: It cannot be deployed so.
    """
    scope = _Scope(path, values or {}, deployment := Deployment())
    deployment.outputs = scope.run()
    return deployment


class _Scope:
    """One file with its parameters; symbols are looked up when they are needed."""

    def __init__(self, path: Path, values: Mapping[str, Any], deployment: Deployment) -> None:
        self._path = path
        self._deployment = deployment
        self._cache: dict[str, Any] = {}
        self._declared = {
            _text(_named(node)[0]): (node, decorators)
            for node, decorators in _declarations(parse(path))
            if node.type not in {"output_declaration", "target_scope_assignment"}
        }
        known = {parameter.name for parameter in parameters(path)}
        if unknown := set(values) - known:
            raise TemplateError(f"{path.name} has no parameter {sorted(unknown)}")
        self._values = values

    def run(self) -> dict[str, Any]:
        """Make everything; the outputs."""
        for name in self._declared:
            self._symbol(name)
        outputs = {}
        for node, _ in _declarations(parse(self._path)):
            if node.type == "output_declaration":
                name, kind, value = _named(node)
                outputs[_text(name)] = found = _plain(self._value(value))
                _check_type(_text(name), _text(kind), found)
        return outputs

    def _symbol(self, name: str) -> Any:
        if name not in self._declared:
            raise TemplateError(f"{self._path.name}: there is no {name}")
        if name not in self._cache:
            node, decorators = self._declared[name]
            make: Callable[..., Any] = getattr(self, f"_{node.type}")
            self._cache[name] = make(node, decorators)
        return self._cache[name]

    def _parameter_declaration(self, node: Node, decorators: list[Node]) -> Any:
        name, kind, *default = _named(node)
        if _text(name) in self._values:
            value = self._values[_text(name)]
        elif default:
            value = self._value(default[0])
        else:
            raise TemplateError(f"{self._path.name}: {_text(name)} is not given")
        _check_type(_text(name), _text(kind), value)
        for decorator in decorators:
            arguments = [self._value(argument) for argument in _arguments(decorator)]
            bicep_functions.check(_text(name), value, _call_name(decorator), arguments)
        return value

    def _variable_declaration(self, node: Node, _: list[Node]) -> Any:
        return self._value(_named(node)[1])

    def _module_declaration(self, node: Node, _: list[Node]) -> Any:
        _, place, *rest = _named(node)
        body = self._conditional(rest[0])
        if body is None:
            return _Absent()
        stated = self._members(body, only={"params"})
        self._wait_for(body)
        path = self._path.parent / self._value(place)
        return {"outputs": _Scope(path, stated.get("params", {}), self._deployment).run()}

    def _resource_declaration(self, node: Node, _: list[Node]) -> Any:
        _, kind, *rest = _named(node)
        body = self._conditional(rest[0])
        if body is None:
            return _Absent()
        self._wait_for(body)
        type_name, api_version = self._value(kind).split("@")
        members = self._members(body)
        stated = {name: members.get(name) for name in ("name", "parent", "scope")}
        parent, scope = stated["parent"], stated["scope"]
        name = stated["name"] if parent is None else f"{parent['full name']}/{stated['name']}"
        rest_of_it = {k: v for k, v in members.items() if k not in _ABOUT_THE_RESOURCE}
        resource = Resource(
            type_name, api_version, name, scope and scope["id"], _without_nulls(rest_of_it)
        )
        if "existing" not in {child.type for child in node.children}:
            self._deployment.resources.append(resource)
        own = {"id": resource.id, "name": stated["name"], "full name": name, "type": type_name}
        place = f"{name}:properties"
        return {
            **resource.body,
            **own,
            "properties": _Known(place, resource.body.get("properties")),
        }

    def _conditional(self, node: Node) -> Node | None:
        """The body, or None where its condition does not hold."""
        if node.type != "if_statement":
            return node
        condition, body = _named(node)
        return body if _truth(self._value(condition)) else None

    def _wait_for(self, body: Node) -> None:
        for name, value in _pairs(body):
            if _text(name) == "dependsOn":
                for symbol in _named(value):
                    self._symbol(_text(symbol))

    def _members(self, node: Node, only: set[str] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in _pairs(node):
            key = self._value(name) if name.type == "string" else _text(name)
            if key == "dependsOn" or (only is not None and key not in only):
                continue
            if key in found:
                raise TemplateError(f"{self._path.name}: {key} twice")
            made = self._value(value)
            found[key] = made if key in {"parent", "scope"} else _plain(made)
        return found

    def _value(self, node: Node) -> Any:
        make = getattr(self, f"_of_{node.type}", None)
        if make is None:
            raise TemplateError(f"{self._path.name}: unknown {node.type}: {_text(node)}")
        return make(node)

    def _of_identifier(self, node: Node) -> Any:
        return self._symbol(_text(node))

    def _of_number(self, node: Node) -> int:
        return int(_text(node))

    def _of_boolean(self, node: Node) -> bool:
        return _text(node) == "true"

    def _of_null(self, _: Node) -> None:
        return None

    def _of_string(self, node: Node) -> str:
        parts = []
        for part in node.named_children:
            if part.type == "interpolation":
                parts.append(bicep_functions.as_string(_plain(self._value(_named(part)[0]))))
            else:
                parts.append(_ESCAPES.get(_text(part), _text(part)))
        return "".join(parts)

    def _of_object(self, node: Node) -> dict[str, Any]:
        return self._members(node)

    def _of_array(self, node: Node) -> list[Any]:
        return [_plain(self._value(item)) for item in _named(node)]

    def _of_parenthesized_expression(self, node: Node) -> Any:
        return self._value(_named(node)[0])

    def _of_ternary_expression(self, node: Node) -> Any:
        condition, yes, no = _named(node)
        return self._value(yes if _truth(self._value(condition)) else no)

    def _of_unary_expression(self, node: Node) -> bool:
        if node.children[0].type != "!":
            raise TemplateError(f"unknown operator: {_text(node)}")
        return not _truth(self._value(_named(node)[0]))

    def _of_binary_expression(self, node: Node) -> Any:
        left, right = _named(node)
        operator = next(child.type for child in node.children if not child.is_named)
        first = self._value(left)
        if operator in {"&&", "||"}:
            decided = _truth(first) is (operator == "||")
            return first if decided else _truth(self._value(right))
        if operator == "??":
            return self._value(right) if first is None else first
        if operator in {"==", "!="}:
            return (first == self._value(right)) is (operator == "==")
        raise TemplateError(f"unknown operator: {_text(node)}")

    def _of_member_expression(self, node: Node) -> Any:
        whole, name = _named(node)
        value = self._value(whole)
        key = _text(name)
        if isinstance(value, _Absent):
            raise TemplateError(f"{self._path.name}: {_text(node)}: it is not deployed")
        if isinstance(value, _Known):
            return value.member(key)
        if key not in value:
            raise TemplateError(f"{self._path.name}: {_text(node)}: there is no {key}")
        return value[key]

    def _of_call_expression(self, node: Node) -> Any:
        arguments = [_plain(self._value(argument)) for argument in _arguments(node)]
        function = bicep_functions.FUNCTIONS.get(_call_name(node))
        if function is None:
            raise TemplateError(f"{self._path.name}: unknown function: {_text(node)}")
        return function(*arguments)


def _declarations(root: Node) -> list[tuple[Node, list[Node]]]:
    """Every declaration, with the calls of its decorators."""
    found = []
    pending: list[Node] = []
    for node in _named(root):
        if node.type == "decorators":
            pending = [_named(decorator)[0] for decorator in _named(node)]
        else:
            found.append((node, pending))
            pending = []
    return found


def _named(node: Node) -> list[Node]:
    return [child for child in node.named_children if child.type != "comment"]


def _pairs(node: Node) -> list[tuple[Node, Node]]:
    return [(name, value) for name, value in map(_named, _named(node))]


def _arguments(call: Node) -> list[Node]:
    return _named(_named(call)[1])


def _call_name(call: Node) -> str:
    return _text(_named(call)[0])


def _words(node: Node) -> str:
    return "".join(_ESCAPES.get(_text(part), _text(part)) for part in node.named_children)


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TemplateError(f"neither true nor false: {value}")
    return value


def _check_type(name: str, kind: str, value: Any) -> None:
    expected = _TYPES[kind]
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise TemplateError(f"{name} is not {kind}: {value}")


def _plain(value: Any) -> Any:
    """A value as it is sent: what Azure fills in becomes a place holder."""
    return str(value) if isinstance(value, _Known) else value


def _without_nulls(value: Any) -> Any:
    """What is null is not sent."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
