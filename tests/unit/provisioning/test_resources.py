"""The bodies of resources are reproducible, private and tagged."""

from __future__ import annotations

from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.provisioning import Azure, Options, resources
from cci_plugins.provisioning.access import build_assignment_name
from cci_plugins.provisioning.plan import list_resources

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"


def options(**more: Any) -> Options:
    return Options(**({"subscription": SUBSCRIPTION, "resource_group": "group"} | more))


def test_bodies_are_reproducible_and_have_the_tags() -> None:
    given = options(kind="custom", gateway=True, tags={"team": "data", "cci-plugins": "fake"})
    first, second = list_resources(given, "image:1"), list_resources(given, "image:1")
    assert first == second
    for resource in first:
        is_pool = resource.kind == "session pool"  # only a managed pool needs a preview
        version = api_versions.APP if is_pool else api_versions.OF_TYPE[resource.type]
        assert resource.api_version == version
        if "tags" in resource.body:
            assert resource.body["tags"] == {"team": "data", "cci-plugins": "cci"}
    names = {resource.name for resource in first}
    assert all(len(name) <= 63 for name in names)


def test_the_storage_account_has_no_public_access() -> None:
    properties = resources.build_storage_account(options()).body["properties"]
    assert properties == {
        "accessTier": "Hot",
        "allowCrossTenantReplication": False,
        "defaultToOAuthAuthentication": True,
        "allowBlobPublicAccess": False,
        "allowSharedKeyAccess": False,
        "minimumTlsVersion": "TLS1_2",
        "supportsHttpsTrafficOnly": True,
    }


def test_the_repr_of_a_body_hides_its_secrets() -> None:
    app = resources.build_gateway(
        options(kind="custom", gateway=True),
        "i",
        pool_endpoint="e",
        client_id="c",
        secrets={"a": "planted"},
    )
    assert "planted" not in repr(app)
    assert "planted" not in repr(Azure(credential="planted"))


def test_an_assignment_has_one_stable_name() -> None:
    assert build_assignment_name("/a", "r", "p") == build_assignment_name("/a", "r", "p")
    assert build_assignment_name("/a", "r", "p") != build_assignment_name("/a", "r", "q")
    assert build_assignment_name("/a", "r", "p") != build_assignment_name("/a", "p", "r")
