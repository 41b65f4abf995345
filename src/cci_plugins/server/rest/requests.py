"""Parts of REST requests: api-version, session identifier, and the JSON body of a run."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from starlette.requests import Request

from cci_plugins.in_session.shell_expression import build_shell_code
from cci_plugins.mcp_client.failures import BAD_IDENTIFIER
from cci_plugins.server.requests import RequestModel, Text, check_identifier, describe_invalid

from .errors import RequestError

_VERSION = re.compile(r"(\d{4}-\d{2}-\d{2})(-preview)?")
_LAST_OLD_VERSION = "2024-08-02"
_Number = Annotated[float, Field(gt=0, lt=1e9)]


class RunBody(RequestModel):
    """The JSON body of a run, with the names of the data plane's properties.

    Clients write the keys in any case. Older versions put a frame `properties` around them.
    """

    code: Text | None = None
    python_code: Text | None = None
    code_input_type: Text | None = None
    shell_command: Text | None = None
    exec_command_and_args: list[Text] | None = None
    execution_type: Text | None = None
    timeout_in_seconds: _Number | None = None
    output_streams_max_length: _Number | None = None

    @model_validator(mode="before")
    @classmethod
    def _normalize_keys(cls, body: Any) -> Any:
        if not isinstance(body, Mapping):
            raise RequestError(400, "InvalidRequest", "The body must be a JSON object.")
        fields = _lower_keys(body)
        inner = fields.get("properties")
        fields = _lower_keys(inner) if isinstance(inner, Mapping) else fields
        keys = [to_camel(name) for name in cls.model_fields]
        return {key: fields[key.lower()] for key in keys if key.lower() in fields}

    @property
    def command(self) -> str | list[str] | None:
        """The shell command that runs instead of Python, if any."""
        return self.shell_command or self.exec_command_and_args or None

    def build_code(self) -> str:
        """Return the Python source to run.

        Raises:
            RequestError: There is nothing to run, or the code is not UTF-8 in base64 as stated.
        """
        if self.command is not None:
            return build_shell_code(self.command)
        code = self.python_code if self.code is None else self.code
        if code is None:
            raise RequestError(400, "SessionPropertiesMissing", "The property 'code' is missing.")
        if (self.code_input_type or "").lower() != "inlinebase64":
            return code
        try:
            return b64decode(code, validate=True).decode()
        except ValueError:  # binascii.Error is one
            raise RequestError(400, "InvalidRequest", "The code is not UTF-8 in base64.") from None


def is_old_form(request: Request) -> bool:
    """Return whether the api-version puts a frame `properties` around everything.

    Raises:
        RequestError: The api-version is missing or malformed.
    """
    version = request.query_params.get("api-version", "")
    match = _VERSION.fullmatch(version)
    if match is None:
        message = f"The api-version '{version[:50]}' is not valid."
        raise RequestError(400, "InvalidApiVersion", message)
    return match[1] <= _LAST_OLD_VERSION


def get_session_id(request: Request) -> str:
    """Return the session identifier of a request.

    Raises:
        RequestError: The identifier is missing or invalid, or the api-version is.
    """
    is_old_form(request)
    identifier = request.query_params.get("identifier", "")
    if (problem := check_identifier(identifier)) is not None:
        raise RequestError(400, BAD_IDENTIFIER, problem)
    return identifier


async def read_run_body(request: Request, max_bytes: int) -> RunBody:
    """Read and validate the body of a run.

    Args:
        request: The request.
        max_bytes: Longest body.

    Raises:
        RequestError: The body is too large, not a JSON object, or has an invalid property.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            message = f"The body has more than {max_bytes:,} bytes."
            raise RequestError(413, "RequestTooLarge", message)
    try:
        return RunBody.model_validate(json.loads(bytes(body)))
    except ValidationError as error:
        raise RequestError(400, "InvalidRequest", describe_invalid(error)) from None
    except (ValueError, RecursionError):
        raise RequestError(400, "InvalidRequest", "The body must be a JSON object.") from None


def _lower_keys(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name.lower(): item for name, item in value.items()}
