"""The script of a model: code for each question, and an answer taken from the code's result."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


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
class ScriptedCall:
    """A call of a tool by the model.

    Attributes:
        name: The tool. A prefix of the framework, as in `plugin-name`, may be left out.
        arguments: Its arguments.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Steps:
    """One question that the model answers by calls of several tools, one after the other.

    Attributes:
        question: Part of the user's question, or of the agent's instructions.
        decide: Returns the next call for the results so far, or else the answer.

    Example:
        ```python
        from cci_plugins.testing import Script, ScriptedCall, Steps

        def decide(results):
            return ScriptedCall("search", {"text": "a"}) if not results else f"It is {results[0]}."

        script = Script((Steps("Which one?", decide),))
        ```
    """

    question: str
    decide: Callable[[Sequence[str]], ScriptedCall | str]


@dataclass(frozen=True)
class ModelRequest:
    """A request in either API: the last question, and the results for it.

    Attributes:
        question: The last question of the user.
        tool: Name of the tool that takes code, or else a command, if there is one.
        result: The last result, if the model has not replied since.
        instructions: The agent's instructions.
        tools: Names of all tools.
        results: The results since the question.
        parameter: The parameter of that tool which takes the code.
    """

    question: str
    tool: str | None
    result: str | None
    instructions: str = ""
    tools: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    parameter: str = "code"

    def find_tool(self, name: str) -> str | None:
        """Return the full name of a tool, or None."""
        return next((one for one in self.tools if one == name or one.endswith(f"-{name}")), None)


@dataclass(frozen=True)
class Script:
    """The turns of a model."""

    turns: tuple[Turn | Steps, ...]

    def reply(self, request: ModelRequest) -> ScriptedCall | str:
        """Return the call of a tool, or else the answer."""
        text = f"{request.instructions}\n{request.question}"
        turn = next((turn for turn in self.turns if turn.question in text), None)
        if turn is None:
            return f"I have no script for this question: {request.question}"
        if isinstance(turn, Steps):
            return turn.decide(request.results)
        if request.result is None:
            return ScriptedCall(request.tool or "", {request.parameter: turn.code})
        match = re.search(turn.found, request.result)
        if match is None:
            return "I could not find my answer in the tool's result."
        return turn.answer.format(**match.groupdict())
