"""What the scripted model says: one piece of code per question, an answer read off its result."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One question the model knows.

    Attributes:
        question: Part of the user's question, or of the agent's instructions.
        code: What the model asks the tool to run.
        found: Pattern with named groups that must occur in what the tool answers.
        answer: The model's answer, with those groups as fields; never a number of its own.
    """

    question: str
    code: str
    found: str
    answer: str


@dataclass(frozen=True)
class Asked:
    """What a request asks, in either API: the last question, and what the tool answered to it."""

    question: str
    tool: str | None
    result: str | None
    instructions: str = ""


@dataclass(frozen=True)
class Script:
    """The turns of a model."""

    turns: tuple[Turn, ...]

    def reply(self, asked: Asked) -> tuple[str | None, str | None]:
        """The code to run, or else the answer."""
        told = f"{asked.instructions}\n{asked.question}"
        turn = next((turn for turn in self.turns if turn.question in told), None)
        if turn is None:
            return None, f"I have no script for this question: {asked.question}"
        if asked.result is None:
            return turn.code, None
        match = re.search(turn.found, asked.result)
        if match is None:
            return None, "I could not find my answer in what the tool said."
        return None, turn.answer.format(**match.groupdict())
