"""A resource matches its desired state in any spelling of Azure."""

from __future__ import annotations

import pytest

from cci_plugins.provisioning.deployment_run import matches


@pytest.mark.parametrize(
    ("want", "found", "same"),
    [
        ({"a": 1}, {"A": 1.0, "b": 2}, True),
        ({"location": "eastus"}, {"location": "East US"}, True),
        ({"memory": "2.0Gi"}, {"memory": "2Gi"}, True),
        ({"memory": "2.5Gi"}, {"memory": "2Gi"}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": {"b": 1}}, {"a": None}, False),
        ({"a": []}, {}, False),
        ({"a": "x"}, {"a": "y"}, False),
    ],
)
def test_another_spelling_matches_and_another_value_does_not(
    want: object,
    found: object,
    same: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    assert matches(want, found) is same
