"""A page for a file: what agents were asked, what they ran, and what they answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cci_plugins.redaction import redact

from .elements import Html, join, tag
from .page import build_page
from .runs import PageBudget, RunView, build_run

Step = tuple[str, str] | RunView
"""A heading with a text, or a run."""


def build_story(title: str, lead: str, chapters: Mapping[str, Sequence[Step]]) -> str:
    """Build a page that needs no server.

    Args:
        title: Its title.
        lead: A sentence below the title.
        chapters: Heading of each chapter, and its steps in order. Secrets are redacted.
    """
    budget = PageBudget()
    parts: list[Html] = []
    for heading, steps in chapters.items():
        parts.append(tag("h2", heading))
        parts += [_build_step(step, budget) for step in steps]
    head = join(tag("h1", title), tag("p", lead, class_="lead soft"))
    return build_page(title, head, *parts, is_file=True)


def _build_step(step: Step, budget: PageBudget) -> Html:
    if isinstance(step, RunView):
        return build_run(step, budget)
    label, text = step
    return tag("p", tag("b", label), " ", redact(text), class_="step")
