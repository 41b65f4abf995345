"""The body of a run over REST: keys in any case, two frames, and one sentence for what is wrong."""

import pytest
from pydantic import ValidationError

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

from cci_plugins.server.requests import describe_invalid
from cci_plugins.server.rest.errors import RequestError
from cci_plugins.server.rest.requests import RunBody


@pytest.mark.parametrize(
    "body",
    [
        {"code": "6 * 7", "timeoutInSeconds": 5},
        {"CODE": "6 * 7", "timeoutinseconds": 5.0, "unknown": 1},
        {"pythonCode": "6 * 7", "timeoutInSeconds": 5, "codeInputType": None},
        {"Properties": {"Code": "6 * 7", "TimeoutInSeconds": 5}, "code": "outside the frame"},
    ],
)
def test_keys_come_in_any_case_and_in_a_frame_or_without(body):
    run = RunBody.model_validate(body)
    assert (run.build_code(), run.timeout_in_seconds) == ("6 * 7", 5)


@pytest.mark.parametrize(
    "body",
    [
        {"shellCommand": "ls", "code": "not used"},
        {"execCommandAndArgs": ["ls"]},
        {"shellCommand": "", "execCommandAndArgs": ["ls"]},
    ],
)
def test_a_command_runs_instead_of_code(body):
    code = RunBody.model_validate(body).build_code()
    assert "'ls'" in code
    compile(code, "command", "eval")


def test_code_with_a_lone_surrogate_is_not_changed():
    assert RunBody.model_validate({"code": "'\ud800'"}).build_code() == "'\ud800'"


@pytest.mark.parametrize("body", [{}, {"code": None}, {"shellCommand": ""}, {"properties": {}}])
def test_a_body_without_code_is_refused(body):
    with pytest.raises(RequestError, match="'code' is missing") as caught:
        RunBody.model_validate(body).build_code()
    assert (caught.value.status, caught.value.code) == (400, "SessionPropertiesMissing")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"timeoutInSeconds": 0}, "timeoutInSeconds is invalid (0): Input should be greater"),
        ({"TIMEOUTINSECONDS": "5"}, "timeoutInSeconds is invalid ('5'): Input should be a valid"),
        ({"outputStreamsMaxLength": float("nan")}, "outputStreamsMaxLength is invalid (nan)"),
        ({"execCommandAndArgs": ["a", None]}, "execCommandAndArgs.1 is invalid (None)"),
        ({"code": ["x" * 100]}, f"code is invalid (['{'x' * 58}...)"),
    ],
)
def test_the_error_names_the_key_and_a_short_value(body, message):
    with pytest.raises(ValidationError) as caught:
        RunBody.model_validate(body)
    assert describe_invalid(caught.value).startswith(message)
