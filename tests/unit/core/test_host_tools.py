"""Host tools without a pool: names, schemas, signatures, answers and approval."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from dataclasses import replace
from typing import Any, Literal

import anyio
import pytest
from pydantic import BaseModel

from cci_plugins import CodeInterpreter, Decision, Execution, HostTool, Limits, ToolCallRequest
from cci_plugins.core import caller
from cci_plugins.core.host_calls import HostCalls
from cci_plugins.core.host_tools import (
    MAX_TOOLS,
    approve_tools,
    check_tools,
    list_approval_names,
    to_tool_name,
)
from cci_plugins.core.tool_results import encode_result, measure
from cci_plugins.core.tool_schema import find_errors
from cci_plugins.core.tool_signatures import (
    build_spec,
    describe_tools,
    format_signature,
    get_first_sentence,
    render_type,
)
from cci_plugins.errors import ConfigurationError, ToolCallError
from cci_plugins.pools.base import Capabilities
from cci_plugins.testing import FakeSessionPool, FakeTools
from cci_plugins.tools import execute_code
from cci_plugins.tools.options import ToolOptions

pytestmark = pytest.mark.anyio
ANY: dict[str, Any] = {"type": "object", "properties": {"a": {}}}


def make(call: Any, *, name: str = "tool", schema: Any = ANY, **options: Any) -> HostTool:
    return HostTool(name, "A tool. More about it.", schema, call, **options)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("orders-search", "orders_search"),
        ("1st", "tool_1st"),
        ("class", "class_"),
        ("", "tool"),
        ("acall", "acall_"),
        ("x" * 99, "x" * 64),
        ("é", "tool"),
        ("MyError", "MyError_"),
    ],
)
def test_a_framework_name_becomes_a_valid_one(text: str, name: str) -> None:
    assert to_tool_name(text) == name
    assert make(print, name=name).name == name


@pytest.mark.parametrize("name", ["a-b", "", "_x", "acall", "call", "class", "ToolError", 7])
def test_a_name_that_code_cannot_call_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError):
        make(print, name=name)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        [],
        {"properties": []},
        {"properties": {"a": {"type": "text"}}},
        {"properties": {"a": {"pattern": 7}}},
    ],
)
def test_an_invalid_schema_is_refused(schema: Any) -> None:
    with pytest.raises(ConfigurationError, match="'tool'"):
        make(print, schema=schema)


def test_tools_are_checked_before_a_run() -> None:
    with pytest.raises(ConfigurationError, match="several tools are called 'tool'"):
        check_tools([make(print), make(print)], None)
    with pytest.raises(ConfigurationError, match="has a builtin_function"):
        check_tools([print], None)  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match=f"more than {MAX_TOOLS}"):
        check_tools([make(print, name=f"t{n}") for n in range(MAX_TOOLS + 1)], None)
    rule = make(print, name="rule", needs_approval=lambda _: False)
    assert list_approval_names([make(print), rule]) == ["rule"]
    with pytest.raises(ConfigurationError, match="'rule' needs approval"):
        check_tools([rule], None)
    assert list_approval_names(check_tools(approve_tools([rule]), None)) == []


def test_arguments_are_checked_by_the_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 1}, "b": {"uniqueItems": True}},
        "required": ["a"],
    }
    assert find_errors(schema, {"a": 1, "b": [1, "1", True, None, [1], {"x": 1}]}) == []
    assert find_errors(schema, {"a": 0})[0].startswith("arguments['a']: 0 is less than")
    assert find_errors(schema, {}) == ["'a' is a required property"]
    assert find_errors(schema, {"c": 1})[0] == "'c' is not a parameter"
    assert find_errors(schema, {"a": 1, "b": [1, 1.0]}) != []
    assert find_errors({**schema, "additionalProperties": True}, {"a": 1, "c": 2}) == []
    assert find_errors(schema, {"a": 1, "b": [[n % 9_999] for n in range(10_000)]}) != []


class Line(BaseModel):
    sku: str
    count: int = 1


class Order(BaseModel):
    """An order."""

    customer: str
    lines: list[Line]
    kind: Literal["new", "old"] = "new"
    note: str | None = None
    prices: dict[str, float] = {}


def test_a_signature_is_rendered_from_the_schema() -> None:
    tool = HostTool(
        "order",
        "Order things. Then wait.",
        Order.model_json_schema(),
        print,
        result_schema={"type": "array", "items": {"type": "integer"}},
    )
    assert format_signature(build_spec(tool)) == (
        "tools.order(customer: str, lines: list[{'sku': str, 'count': NotRequired[int]}], "
        "kind: Literal['new', 'old'] = 'new', note: str | None = None, "
        "prices: dict[str, float] = {}) -> list[int]"
    )
    assert "JSON schema of the arguments" in build_spec(tool).documentation
    odd = {"type": "object", "properties": {"a-b": {"type": "string"}}, "patternProperties": {}}
    assert format_signature(build_spec(make(print, schema=odd))) == "tools.tool(**{'a-b': str})"


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": ["string", "null"]}, "str | None"),
        ({"$ref": "#/$defs/missing"}, "Any"),
        ({"$ref": "#"}, "Any"),
        ({"enum": list(range(50))}, "int"),
        ({"const": "x"}, "Literal['x']"),
        ({"oneOf": [{"type": "integer"}, {}]}, "Any"),
        ({"allOf": [{"type": "boolean"}]}, "bool"),
        ({"type": "object", "additionalProperties": True}, "dict"),
        ({"type": "array"}, "list"),
        (True, "Any"),
        ({"type": "new"}, "Any"),
    ],
)
def test_any_schema_has_a_type(schema: Any, text: str) -> None:
    assert render_type(schema) == text


def test_the_description_keeps_its_budget() -> None:
    tools = [make(print, name=f"tool_{n}", schema=Order.model_json_schema()) for n in range(90)]
    assert describe_tools([]) == ""
    full = describe_tools(tools[:2])
    assert "- tools.tool_0(customer: str" in full
    assert full.count(": A tool.") == 2
    for budget in (100, 500, 2_000, 9_000):
        lines = [one for one in describe_tools(tools, budget).splitlines() if one[0] == "-"]
        assert sum(map(len, lines)) <= budget + 60
    assert "more: print(dir(tools))" in describe_tools(tools, 500)
    assert get_first_sentence("It costs 3.50 euro.\nMore. Text") == "It costs 3.50 euro."
    text = execute_code.build_description(ToolOptions(), None, tools[:1])
    assert text.startswith(execute_code.DESCRIPTION)
    assert "tools.tool_0(" in text


def make_calls(*tools: HostTool, approve_tool: Any = None, **limits: Any) -> HostCalls:
    return HostCalls(
        check_tools(tools, approve_tool),
        Limits(**limits),
        code="code",
        session_key="key",
        session_id="id",
        approve_tool=approve_tool,
    )


async def attempt(calls: HostCalls, name: str = "tool", **arguments: Any) -> Any:
    try:
        return json.loads(await calls.call(name, json.dumps(arguments)))
    except ToolCallError as error:
        return error.kind, str(error)


class Unusual:
    async def __call__(self, a: object = None) -> list[object]:
        return [a]


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (lambda a: {"a": a}, {"a": 1}),
        (Unusual(), [1]),
        (lambda a: Line(sku="x", count=a), {"sku": "x", "count": 1}),
        (lambda a: float("nan"), None),
        (lambda a: object(), "failed"),
        (lambda a: "\ud800", "failed"),
        (lambda a: 1 / 0, ("failed", "ZeroDivisionError: division by zero")),
        (lambda a: next(iter(())), "failed"),
        (lambda a: exit(3), "failed"),  # noqa: PLR1722
        (lambda a: asyncio.sleep(0, "later"), "later"),
    ],
)
async def test_a_result_is_json_and_an_exception_is_a_text(call: Any, result: Any) -> None:
    calls = make_calls(make(call))
    found = await attempt(calls, a=1)
    assert found == result or found[0] == result
    assert calls.records[0].status in {"succeeded", "failed"}
    assert calls.records[0].arguments == {"a": 1}


async def test_the_tasks_own_cancellation_does_not_end_the_run() -> None:
    async def cancel(a: object = None) -> None:
        raise asyncio.CancelledError

    calls = make_calls(make(cancel))
    assert await attempt(calls) == ("failed", "the tool ended with CancelledError")


async def test_calls_are_bounded() -> None:
    calls = make_calls(
        make(lambda a=None: a), tool_calls=4, tool_call_bytes=1000, tool_total_bytes=2500
    )
    assert await attempt(calls, a="x" * 900) == "x" * 900
    assert (await attempt(calls, a="x" * 1000))[0] == "limit"
    assert "2,500 bytes together" in (await attempt(calls, a="x" * 900))[1]
    assert (await attempt(calls, "none"))[0] == "invalid"
    assert (await attempt(calls))[1] == "this run has made its 4 calls of tools"
    statuses = [call.status for call in calls.records]
    assert statuses == ["succeeded", *["rejected"] * 4]


async def test_time_is_bounded_for_a_call_and_for_a_run() -> None:
    async def hang(a: object = None) -> None:
        await anyio.sleep(60)

    calls = make_calls(make(hang), tool_call_timeout=0.1, tool_timeout=0.15)
    assert await attempt(calls) == ("timeout", "the tool did not return within 0.1 s")
    assert await attempt(calls) == ("timeout", "this run has waited 0.15 s for tools in all")
    assert await attempt(calls) == ("timeout", "this run has waited 0.15 s for tools in all")
    assert [call.status for call in calls.records] == ["timed_out"] * 3


async def test_threads_that_do_not_return_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "MAX_ABANDONED", caller._abandoned.count + 2)
    released = threading.Event()
    calls = make_calls(make(lambda: released.wait(30)), tool_call_timeout=0.05)
    assert [(await attempt(calls))[0] for _ in range(3)] == ["timeout", "timeout", "limit"]
    released.set()
    with anyio.fail_after(10):
        while caller._abandoned.count >= caller.MAX_ABANDONED:
            await anyio.sleep(0.01)
        assert await attempt(calls) is True


async def test_the_approver_is_asked_by_the_rule_and_a_failure_is_a_denial() -> None:
    asked: list[ToolCallRequest] = []

    async def approve(request: ToolCallRequest) -> Decision:
        asked.append(request)
        if request.arguments["a"] == "fail":
            raise RuntimeError
        return Decision("allow" if request.arguments["a"] == "yes" else "deny")

    async def rule(arguments: Any) -> bool:
        return bool(arguments["a"] != "free")

    ran: list[str] = []
    tool = make(print, name="append", needs_approval=rule)
    tool = replace(tool, call=lambda a: ran.append(a))  # noqa: PLW0108 - a C function has no keywords
    calls = make_calls(tool, approve_tool=approve)
    found = [await attempt(calls, "append", a=a) for a in ("free", "yes", "no", "fail")]
    assert found[:2] == [None, None]
    assert found[2] == ("denied", "the user did not approve the call of append")
    assert found[3][1].endswith("nobody could be asked")
    assert ran == ["free", "yes"]
    assert (asked[0].code, asked[0].session_key, asked[0].name) == ("code", "key", "append")
    assert "yes" not in repr(asked)
    broken = replace(tool, needs_approval=lambda _: 1 / 0)  # type: ignore[arg-type,return-value]
    calls = make_calls(broken, approve_tool=approve)
    assert (await attempt(calls, "append", a="no"))[0] == "denied"


async def test_secrets_stay_out_of_records_logs_and_errors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "sig=" + "B2" * 22

    def leak(a: str) -> None:
        raise ValueError(f"cannot open https://a.example/b?{a}")

    async def program(_: str, tools: FakeTools) -> Execution:
        assert tools.names == ("leak",)
        with pytest.raises(ToolCallError, match="redacted"):
            await tools.acall("leak", a=secret)
        return Execution(stdout="done")

    caplog.set_level(logging.DEBUG)
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    async with CodeInterpreter(FakeSessionPool(program)) as interpreter:
        tools = [make(leak, name="leak", schema=schema)]
        execution = await interpreter.run_code("code", tools=tools)
        notebook = interpreter.session().notebook()
    (call,) = execution.tool_calls
    shown = f"{execution!r} {call} {call.arguments} {notebook} {caplog.text} {tools}"
    assert secret not in shown
    assert "sig=[redacted]" in str(call.arguments)
    assert (call.name, call.status) == ("leak", "failed")


async def test_a_pool_without_host_tools_refuses_before_it_runs_code() -> None:
    class TextPool(FakeSessionPool):
        capabilities = Capabilities(name="text")

    pool = TextPool()
    async with CodeInterpreter(pool) as interpreter:
        with pytest.raises(ConfigurationError, match="'text' cannot call tools of the host"):
            await interpreter.run_code("code", tools=[make(print)])
        reply = await execute_code.call(interpreter, "code", tools=[make(print)])
        assert "cannot call tools of the host" in reply.text
        assert pool.calls == []
        await interpreter.run_code("code")


async def test_spans_of_calls_are_below_the_span_of_the_run() -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def work(a: object = None) -> None:
        with trace.get_tracer("app").start_as_current_span("work of the app"):
            pass

    async def program(_: str, tools: FakeTools) -> Execution:
        await tools.acall("tool", a=1)
        return Execution()

    async with CodeInterpreter(FakeSessionPool(program)) as interpreter:
        await interpreter.run_code("code", tools=[make(work)])
    spans = {span.name: span for span in exporter.get_finished_spans()}
    inner, call = spans["work of the app"], spans["execute_tool tool"]
    run = spans["execute_tool execute_code"]
    assert inner.parent is not None
    assert call.parent is not None
    assert inner.parent.span_id == call.context.span_id
    assert call.parent.span_id == run.context.span_id
    assert run.attributes is not None
    assert run.attributes["cci.tool_calls"] == 1
    assert not any("arguments" in key for key in call.attributes or {})


def test_a_large_result_is_refused_without_encoding_it() -> None:
    assert measure({"a": ["x" * 10, 1]}, 100) >= 14
    assert measure(["x" * 50] * 10, 100) > 100
    with pytest.raises(ToolCallError, match="bytes or more"):
        encode_result("x" * 1000, 100)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ToolCallError):
        encode_result(endless, 1000)
