"""The tools of a platform pool, under the names that servers are reported to use."""

import pytest

from cci_plugins.errors import ProtocolError
from cci_plugins.pools.azure.mcp_pool import find_python_tool

RUN = "runPythonCodeInRemoteEnvironment"


@pytest.mark.parametrize("name", [RUN, "runPythonCode", "run_python_code_in_remote_environment"])
def test_the_tool_is_found_under_its_names(name):
    assert find_python_tool([{"name": "launchPythonEnvironment"}, {"name": name}]) == name


def test_the_error_of_a_pool_without_python_lists_its_tools():
    with pytest.raises(ProtocolError, match="only launchShell"):
        find_python_tool([{"name": "launchShell"}])
