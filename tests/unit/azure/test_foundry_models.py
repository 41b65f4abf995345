"""The model that the project names, and what is said about a region's models."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cci_plugins.azure.failures import build_error
from cci_plugins.azure.foundry_defaults import DEFAULT_MODEL
from cci_plugins.azure.foundry_models import (
    OfferedModel,
    find_end,
    find_problem,
    list_offered_models,
)

ROOT = Path(__file__).parents[3]
TODAY = date(2026, 11, 27)
OTHERS = "gpt-6-luna, gpt-5.6-luna"
MODELS = (
    OfferedModel(name="gpt-5-mini", version="1", skus=("GlobalStandard",), retires=TODAY),
    OfferedModel(name="gpt-5.6-luna", version="2", retires=date(2027, 1, 1)),
    OfferedModel(name="gpt-6-luna", version="3", skus=("GlobalStandard",)),
    OfferedModel(name="embedding", version="1", is_chat=False),
)


def test_guides_samples_and_templates_name_one_model() -> None:
    named = {}
    for folder, pattern in (
        ("src", "**/*.py"),
        ("docs/guides", "*.md"),
        ("samples", "**/*.py"),
        ("infra", "*.bicep"),
        (".", "README.md"),
        ("infra", "README.md"),
    ):
        for path in (ROOT / folder).glob(pattern):
            if path.name != "foundry_defaults.py":
                found = re.findall(r"gpt-\d[\w.]*(?:-[a-z]+)?", path.read_text(encoding="utf-8"))
                named |= dict.fromkeys(set(found), str(path))
    assert set(named) == {DEFAULT_MODEL}, named
    template = (ROOT / "infra" / "main.bicep").read_text()
    assert f"param modelName string = '{DEFAULT_MODEL}'" in template


@pytest.mark.parametrize(
    ("model", "more", "expected"),
    [
        ("gpt-6-luna", {}, None),
        ("GPT-6-Luna", {"sku": "globalstandard", "version": "3"}, None),
        ("gpt-5.6-luna", {"sku": "GlobalStandard"}, None),  # Azure names no kind
        (
            "gpt-5-mini",
            {},
            f"the model gpt-5-mini was retired in eastus on {TODAY}; it offers {OTHERS}",
        ),
        (
            "gpt-7",
            {},
            f"the region eastus does not offer the model gpt-7; it offers {OTHERS}",
        ),
        ("gpt-6-luna", {"version": "9"}, "eastus offers gpt-6-luna in the versions 3, not 9"),
        (
            "gpt-6-luna",
            {"sku": "Standard"},
            "eastus offers gpt-6-luna as GlobalStandard, not as Standard",
        ),
    ],
)
def test_the_reason_and_the_alternatives_are_named(
    model: str, more: dict[str, str], expected: str | None
) -> None:
    assert find_problem(MODELS, model, location="eastus", today=TODAY, **more) == expected


def test_an_end_that_is_near_is_noted() -> None:
    assert find_end(MODELS, "gpt-5.6-luna", today=TODAY) == date(2027, 1, 1)
    assert find_end(MODELS, "gpt-5.6-luna", today=date(2026, 1, 1)) is None
    assert find_end(MODELS, "gpt-6-luna", today=TODAY) is None


class FakeArm:
    """A Resource Manager that has one answer."""

    def __init__(self, answer: list[Any] | Exception) -> None:
        self.answer = answer

    async def list(self, *_: str, **__: str) -> list[Any]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.anyio
async def test_azures_list_is_read_whatever_it_leaves_out() -> None:
    item = {
        "kind": "AIServices",
        "model": {
            "Format": "OpenAI",
            "name": "gpt-6-luna",
            "version": "3",
            "SKUs": [{"name": "GlobalStandard"}, "odd"],
            "deprecation": {"inference": "2028-01-11T00:00:00Z"},
        },
    }
    gone = {"kind": "AIServices", "model": {"name": "old", "lifecycleStatus": "Retired"}}
    others = [{"kind": "OpenAI", "model": item["model"]}, {"model": {"format": "Meta"}}, {}]
    arm: Any = FakeArm([item, item, gone, *others])
    found = await list_offered_models(arm, "s", "eastus")
    assert found is not None
    assert [(one.name, one.skus, one.retires) for one in found] == [
        ("gpt-6-luna", ("GlobalStandard",), date(2028, 1, 11)),
        ("old", (), date.min),
    ]
    for answer in ([], build_error("models", 403, None)):
        arm = FakeArm(answer)
        assert await list_offered_models(arm, "s", "eastus") is None
