"""Detection of the cci-plugins server by its answer to `initialize`."""

import pytest

from cci_plugins.pools.azure.cci_server import is_cci_server


def test_the_server_is_known_by_its_name():
    assert is_cci_server({"serverInfo": {"name": "cci-plugins", "version": "1"}})


@pytest.mark.parametrize("info", [None, [], "cci-plugins", {}, {"name": ["cci-plugins"]}])
def test_a_malformed_description_is_another_server(info):
    assert not is_cci_server({"serverInfo": info})
    assert not is_cci_server({})
