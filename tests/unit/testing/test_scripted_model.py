"""The scripted model serves OpenAI's two APIs, as OpenAI's own client reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from cci_plugins.testing import Script, ScriptedCall, ScriptedModel, Steps, Turn

CODE = "print('the answer is', 6 * 7)  # long enough to come in several chunks"
TURN = Turn("ask", CODE, r"is (?P<n>\d+)", "It is {n}, as the tool has just shown.")
PARAMETERS = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
FLAT: Any = {"type": "function", "name": "execute_code", "parameters": PARAMETERS, "strict": False}
NESTED: Any = {"type": "function", "function": {k: FLAT[k] for k in ("name", "parameters")}}
USER: Any = {"role": "user", "content": "ask"}
CALL: Any = {
    "role": "assistant",
    "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "execute_code", "arguments": "{}"}}
    ],
}
RESULT: Any = {"role": "tool", "tool_call_id": "c", "content": "the answer is 1234"}
CALL_ITEM: Any = {
    "type": "function_call",
    "call_id": "c",
    "name": "execute_code",
    "arguments": "{}",
}
RESULT_ITEM: Any = {"type": "function_call_output", "call_id": "c", "output": "the answer is 1234"}


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel(Script((TURN,))) as served:
        yield served


@pytest.fixture
def client(model: ScriptedModel) -> Iterator[OpenAI]:
    with OpenAI(base_url=model.url, api_key="none-needed", max_retries=0) as made:
        yield made


def test_chat_completions_call_the_tool_and_quote_its_result(client: OpenAI) -> None:
    first = client.chat.completions.create(model="m", messages=[USER], tools=[NESTED])
    (call,) = first.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"code": CODE}
    assert first.choices[0].finish_reason == "tool_calls"
    last = client.chat.completions.create(model="m", messages=[USER, CALL, RESULT], tools=[NESTED])
    assert last.choices[0].message.content == "It is 1234, as the tool has just shown."


def test_chat_completions_stream_in_chunks(client: OpenAI) -> None:
    with client.chat.completions.stream(model="m", messages=[USER], tools=[NESTED]) as stream:
        chunks = sum(event.type == "tool_calls.function.arguments.delta" for event in stream)
        message = stream.get_final_completion().choices[0].message
    assert chunks > 1
    (call,) = message.tool_calls or ()
    assert json.loads(call.function.arguments) == {"code": CODE}
    with client.chat.completions.stream(
        model="m", messages=[USER, CALL, RESULT], stream_options={"include_usage": True}
    ) as stream:
        assert sum(event.type == "content.delta" for event in stream) > 1
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "It is 1234, as the tool has just shown."
    assert final.usage is not None


def test_responses_call_the_tool_and_quote_its_result(client: OpenAI) -> None:
    first = client.responses.create(model="m", input="ask", tools=[FLAT])
    (call,) = first.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"code": CODE}
    last = client.responses.create(model="m", input=[USER, CALL_ITEM, RESULT_ITEM])
    assert last.output_text == "It is 1234, as the tool has just shown."


def test_responses_stream_in_chunks(client: OpenAI) -> None:
    with client.responses.stream(model="m", input="ask", tools=[FLAT]) as stream:
        chunks = [event for event in stream if event.type.endswith("arguments.delta")]
        (call,) = stream.get_final_response().output
    assert len(chunks) > 1
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"code": CODE}
    with client.responses.stream(model="m", input=[USER, CALL_ITEM, RESULT_ITEM]) as stream:
        assert sum(event.type == "response.output_text.delta" for event in stream) > 1
        assert stream.get_final_response().output_text.startswith("It is 1234")


def test_the_answer_has_no_number_without_one_from_the_tool(client: OpenAI) -> None:
    broken = {**RESULT, "content": "Error 500 in line 3"}
    last = client.chat.completions.create(model="m", messages=[USER, CALL, broken])
    assert not any(character.isdigit() for character in last.choices[0].message.content or "")


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "nobody", "content": "ask"}],
        [USER, RESULT],
        [USER, CALL],
        [USER, CALL, USER],
        [USER, CALL, {**RESULT, "tool_call_id": "other"}],
        [USER, CALL, {**RESULT, "content": [IMAGE]}],
        [USER],
    ],
    ids=["none", "role", "no call", "unanswered", "late", "other id", "image", "no tool offered"],
)
def test_chat_requests_that_openai_refuses_are_refused(client: OpenAI, messages: Any) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=messages)
    assert caught.value.type == "invalid_request_error"


def test_responses_continue_from_a_stored_one(client: OpenAI) -> None:
    first = client.responses.create(model="m", input="ask", tools=[FLAT])
    (call,) = first.output
    assert call.type == "function_call"
    output: Any = {**RESULT_ITEM, "call_id": call.call_id}
    last = client.responses.create(model="m", input=[output], previous_response_id=first.id)
    assert last.output_text == "It is 1234, as the tool has just shown."
    with pytest.raises(BadRequestError):
        client.responses.create(model="m", input=[output], previous_response_id="resp_other")
    unkept = client.responses.create(model="m", input="ask", tools=[FLAT], store=False)
    with pytest.raises(BadRequestError):
        client.responses.create(model="m", input="ask", previous_response_id=unkept.id)


def test_an_image_after_a_result_is_not_a_new_question(client: OpenAI) -> None:
    image: Any = {"role": "user", "content": [{"type": "text", "text": "a chart"}, IMAGE]}
    last = client.chat.completions.create(model="m", messages=[USER, CALL, RESULT, image])
    assert last.choices[0].message.content == "It is 1234, as the tool has just shown."


@pytest.mark.parametrize(
    "items",
    [[], [USER, RESULT_ITEM], [USER, CALL_ITEM]],
    ids=["none", "no call", "unanswered"],
)
def test_responses_requests_that_openai_refuses_are_refused(client: OpenAI, items: Any) -> None:
    with pytest.raises(BadRequestError):
        client.responses.create(model="m", input=items)


def test_other_paths_other_bodies_and_missing_keys_have_their_status(
    model: ScriptedModel, client: OpenAI
) -> None:
    with pytest.raises(NotFoundError):
        client.embeddings.create(model="m", input="ask")
    key = {"Authorization": "Bearer x"}
    url = f"{model.url}/chat/completions"
    for body in (b"", b"{", b"[]", b"\xff"):
        reply = httpx.post(url, content=body, headers=key)
        assert reply.status_code == 400
        assert reply.json()["error"]["type"] == "invalid_request_error"
    assert httpx.post(url, content=b"{}").status_code == 401


def test_it_calls_several_tools_one_after_the_other_by_their_full_names() -> None:
    def decide(results: Sequence[str]) -> ScriptedCall | str:
        calls = [ScriptedCall("find", {"text": "a"}), ScriptedCall("count")]
        return calls[len(results)] if len(results) < len(calls) else " ".join(results)

    tools: Any = [
        {"type": "function", "function": {"name": f"shop-{n}"}} for n in ("find", "count")
    ]
    messages: list[Any] = [USER]
    with ScriptedModel(Script((Steps("ask", decide),))) as model:
        with OpenAI(base_url=model.url, api_key="none-needed", max_retries=0) as client:
            for name in ("find", "count", "answer"):
                reply = client.chat.completions.create(model="m", messages=messages, tools=tools)
                message = reply.choices[0].message
                if message.tool_calls:
                    (call,) = message.tool_calls
                    assert call.type == "function"
                    assert call.function.name == f"shop-{name}"
                    result = {"role": "tool", "tool_call_id": call.id, "content": f"{name}!"}
                    messages += [message.model_dump(exclude_none=True), result]
            assert message.content == "find! count!"
            with pytest.raises(BadRequestError, match="was not offered"):
                client.chat.completions.create(model="m", messages=[USER], tools=tools[1:])


def test_the_code_is_a_command_where_no_tool_takes_code(client: OpenAI) -> None:
    properties = {"path": {"type": "string"}}, {"command": {"type": "string"}}
    tools: Any = [
        {
            "type": "function",
            "function": {"name": name, "parameters": {"type": "object", "properties": taken}},
        }
        for name, taken in zip(("read_file", "execute"), properties, strict=True)
    ]
    first = client.chat.completions.create(model="m", messages=[USER], tools=tools)
    calls: Any = first.choices[0].message.tool_calls
    assert calls[0].function.name == "execute"
    assert json.loads(calls[0].function.arguments) == {"command": CODE}
    flat: Any = [{"type": "function", **tool["function"], "strict": False} for tool in tools]
    answer: Any = client.responses.create(model="m", input=[USER], tools=flat).output[0]
    assert json.loads(answer.arguments) == {"command": CODE}
    both = client.chat.completions.create(model="m", messages=[USER], tools=[*tools, NESTED])
    taken_call: Any = both.choices[0].message.tool_calls
    assert taken_call[0].function.name == "execute_code"
