"""The HTTP requests that each framework really sends: the schema, and the tool's results."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from cci_plugins import CodeInterpreter
from cci_plugins.testing import ScriptedModel
from cci_plugins.testing.scripted_model.apis import text_of
from cci_plugins.tools import execute_code

from .conftest import Ask

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

# Each framework, and both of OpenAI's APIs.
ONE_OF_EACH = (
    "agent-framework",
    "langchain-responses",
    "openai-agents",
    "semantic-kernel-responses",
)

PNG = (
    "from base64 import b64decode\nfrom IPython.display import Image, display\n"
    "display(Image(b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')))"
)


def result_seen(model: ScriptedModel) -> str:
    """Return the result in the last request, after a check of its call id."""
    _, body = model.requests[-1]
    if "input" in body:
        output = next(item for item in body["input"] if item.get("type") == "function_call_output")
        if "previous_response_id" not in body:  # else the server has the call, and has compared
            call = next(item for item in body["input"] if item.get("type") == "function_call")
            assert output["call_id"] == call["call_id"]
        return text_of(output["output"])
    call = next(m for m in body["messages"] if m.get("tool_calls"))["tool_calls"][0]
    answer = next(m for m in body["messages"] if m["role"] == "tool")
    assert answer["tool_call_id"] == call["id"]
    assert all(not isinstance(part, dict) or part["type"] == "text" for part in answer["content"])
    return text_of(answer["content"])


def parameters_seen(model: ScriptedModel) -> dict[str, Any]:
    """The tool's schema, as the first request shows it."""
    _, body = model.requests[0]
    (shown,) = body["tools"]
    return dict(shown.get("function", shown)["parameters"])


async def test_the_model_is_shown_code_and_nothing_else(
    ask: Ask, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", "1"))
    await ask(warm, model, "schema", "go")
    parameters = parameters_seen(model)
    assert list(parameters["properties"]) == ["code"]
    shown = {key: parameters["properties"]["code"][key] for key in ("type", "description")}
    assert shown == execute_code.PARAMETERS["properties"]["code"]
    assert parameters["required"] == ["code"]


@pytest.mark.quick(*ONE_OF_EACH)
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('printed')\n6 * 7", "printed\n42"),
        ("x = 1", "(no output)"),
        ("print('\\U0001f40d \\x1b[31mred\\x1b[0m')", "\U0001f40d red"),
        ("print('\\x00\\x01\\x02 \\xff.')", "\N{REPLACEMENT CHARACTER} \xff."),
    ],
)
async def test_the_model_reads_what_came_out(
    ask: Ask,
    warm: CodeInterpreter,
    scripted: Callable[..., ScriptedModel],
    code: str,
    expected: str,
) -> None:
    model = scripted(("go", code))
    assert await ask(warm, model, "reads", "go") == "seen"
    assert result_seen(model) == expected


async def test_a_python_error_is_readable(
    ask: Ask, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", "def f():\n    return 1 / 0\nf()"))
    await ask(warm, model, "error", "go")
    seen = result_seen(model)
    assert "ZeroDivisionError: division by zero" in seen
    assert "line 2" in seen


@pytest.mark.quick("langchain", "openai-agents-responses")
async def test_a_time_out_is_one_plain_sentence(
    ask: Ask, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", "while True: pass"))
    await ask(warm, model, "slow", "go")
    assert "the code ran longer than 3 s and was interrupted" in result_seen(model)


async def test_an_image_is_named_and_no_base64_is_sent(
    ask: Ask, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", PNG))
    await ask(warm, model, "image", "go")
    assert result_seen(model) == "[image 1: image/png, shown to the user]"
    _, body = model.requests[-1]
    sent = json.dumps(body.get("messages") or body["input"])
    mine = 0 if "previous_response_id" in body else 1
    assert sent.count("iVBORw0KGgo") == mine, "only the model's own code may hold it"


@pytest.mark.quick(*ONE_OF_EACH)
async def test_a_table_is_text(
    ask: Ask, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", "import pandas\npandas.DataFrame({'n': range(1000)})"))
    await ask(warm, model, "table", "go")
    seen = result_seen(model)
    assert "[1000 rows x 1 columns]" in seen
    assert "<div>" not in seen


@pytest.mark.quick(*ONE_OF_EACH)
async def test_huge_output_is_bounded_and_counted(
    ask: Ask, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", "print('line of output\\n' * 350_000)"))  # 5 MB
    await ask(warm, model, "huge", "go")
    seen = result_seen(model)
    assert len(seen) <= warm.limits.output_characters
    assert "characters left out" in seen


@pytest.mark.quick(*ONE_OF_EACH)
async def test_a_lost_session_is_reported(
    ask: Ask, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", "import os; os._exit(1)"))
    await ask(warm, model, "lost", "go")
    assert "variables and files are gone" in result_seen(model)


@pytest.mark.quick(*ONE_OF_EACH)
async def test_state_is_kept_in_a_conversation_and_not_in_another(
    ask: Ask, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    key = f"kept-{id(ask)}"
    model = scripted(("set", "secret = 4711"), ("get", "print('secret' in dir())"))
    await ask(warm, model, key, "set")
    await ask(warm, model, key, "get")
    assert result_seen(model) == "True"
    await ask(warm, model, f"{key}-other", "get")
    assert result_seen(model) == "False"


@pytest.mark.quick("semantic-kernel")
async def test_eight_conversations_at_once_do_not_mix(
    ask: Ask, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    keys = [f"many-{id(ask)}-{number}" for number in range(8)]
    model = scripted(
        *((f"set {key}", f"import time\nmine = {key!r}\ntime.sleep(0.2)") for key in keys),
        *((f"get {key}", f"assert mine == {key!r}\nprint('mine is', mine)") for key in keys),
    )
    await asyncio.gather(*(ask(warm, model, key, f"set {key}") for key in keys))
    await asyncio.gather(*(ask(warm, model, key, f"get {key}") for key in keys))
    sent = json.dumps([body for _, body in model.requests])
    for key in keys:
        assert f"mine is {key}" in sent
    assert "AssertionError" not in sent
    for key in keys:
        await warm.session(key).delete()
