"""Parts of requests that MCP, REST and the emulated pools share: bodies, JSON, identifiers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, InstanceOf, ValidationError
from pydantic.alias_generators import to_camel
from starlette.types import Message, Receive

MIN_IDENTIFIER_LENGTH, MAX_IDENTIFIER_LENGTH = 4, 128
_MAX_SHOWN_CHARACTERS = 60

Text = InstanceOf[str]
"""A string as JSON has it. pydantic's own `str` refuses lone surrogates, which code may contain."""


class RequestModel(BaseModel):
    """Base of what clients send as JSON: strict types, keys in camel case, other keys ignored."""

    model_config = ConfigDict(strict=True, frozen=True, alias_generator=to_camel)


async def read_body(receive: Receive, max_bytes: int) -> bytes | None:
    """Return the whole body of a request, or None when it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > max_bytes:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` for a request whose body was already read."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def describe_invalid(error: ValidationError) -> str:
    """Return the first problem of a JSON value as one sentence that names its key."""
    problem = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{name} is missing."
    if not name:  # a rule about several keys, whose message names them
        return problem["msg"].removeprefix("Value error, ")
    shown = repr(problem["input"])
    shown = shown if len(shown) <= _MAX_SHOWN_CHARACTERS else shown[:_MAX_SHOWN_CHARACTERS] + "..."
    return f"{name} is invalid ({shown}): {problem['msg']}."


def check_identifier(identifier: object) -> str | None:
    """Return what is wrong with a session identifier in one sentence, or None.

    The rule is the data plane's: 4 to 128 characters of printable ASCII without spaces.
    """
    if (
        not isinstance(identifier, str)
        or not MIN_IDENTIFIER_LENGTH <= len(identifier) <= MAX_IDENTIFIER_LENGTH
    ):
        return (
            f"A session identifier has {MIN_IDENTIFIER_LENGTH} to {MAX_IDENTIFIER_LENGTH} "
            "characters."
        )
    if not identifier.isascii() or not identifier.isprintable() or " " in identifier:
        return "A session identifier has printable ASCII characters only, without spaces."
    return None
