"""The script of a model: code for each question, and an answer taken from the code's result."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One question that the model can answer.

    Attributes:
        question: Part of the user's question, or of the agent's instructions.
        code: Code that the model passes to the tool.
        found: Pattern with named groups. It must match in the tool's result.
        answer: The model's answer, with those groups as fields.
    """

    question: str
    code: str
    found: str = r"(?P<result>.+)"
    answer: str = "It is {result}."


@dataclass(frozen=True)
class ModelRequest:
    """A request in either API: the last question, and the tool's result for it.

    `parameter` is the tool's parameter that takes the code.
    """

    question: str
    tool: str | None
    result: str | None
    instructions: str = ""
    parameter: str = "code"


@dataclass(frozen=True)
class Script:
    """The turns of a model."""

    turns: tuple[Turn, ...]

    def reply(self, request: ModelRequest) -> tuple[str | None, str | None]:
        """Return the code to run, or else the answer."""
        text = f"{request.instructions}\n{request.question}"
        turn = next((turn for turn in self.turns if turn.question in text), None)
        if turn is None:
            return None, f"I have no script for this question: {request.question}"
        if request.result is None:
            return turn.code, None
        match = re.search(turn.found, request.result)
        if match is None:
            return None, "I could not find my answer in the tool's result."
        return None, turn.answer.format(**match.groupdict())
