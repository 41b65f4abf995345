"""Options that Azure would refuse are refused at once, by name."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cci_plugins.errors import ConfigurationError
from cci_plugins.provisioning import Options

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"


def options(**more: Any) -> Options:
    return Options(**({"subscription": SUBSCRIPTION, "resource_group": "group"} | more))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"subscription": "mine"}, "--subscription"),
        ({"resource_group": "a/b"}, "--resource-group"),
        ({"resource_group": "ends."}, "--resource-group"),
        ({"name": "Cci"}, "--name"),
        ({"name": "much-too-long"}, "--name"),
        ({"suffix": "x"}, "--suffix"),
        ({"suffix": "x-12"}, "--suffix"),
        ({"principal_id": "me"}, "--principal-id"),
        ({"cooldown": timedelta(seconds=299)}, "--cooldown"),
        ({"max_sessions": 601}, "--max-sessions"),
        ({"kind": "custom", "ready_sessions": 10}, "--ready-sessions"),
        ({"gateway": True}, "--kind custom"),
        ({"image": "x"}, "--kind custom"),
        ({"kind": "custom", "image": "x", "requirements": Path("y")}, "--image"),
    ],
    ids=str,
)
def test_options_that_azure_would_refuse_are_refused_by_name(
    more: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        options(**more)
    assert named in str(caught.value.hint)


def test_each_group_has_its_own_stable_suffix() -> None:
    assert options().suffix == options(resource_group="GROUP").suffix
    assert options().suffix != options(resource_group="other").suffix
    assert options(location="West US 2").location == "westus2"
    assert options(suffix="mine").suffix == "mine"
