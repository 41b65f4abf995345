"""Detection of the cci-plugins server by its answer to `initialize`."""

from datetime import timedelta

import pytest

from cci_plugins.errors import ProtocolError
from cci_plugins.mcp_client.executions import META_KEY, dump_execution
from cci_plugins.mcp_client.messages import ToolResult
from cci_plugins.models import Execution, FileInfo
from cci_plugins.pools.azure.cci_server import RunRequest, RunTool, is_cci_server, run_full

pytestmark = pytest.mark.anyio


def test_the_server_is_known_by_its_name():
    assert is_cci_server({"serverInfo": {"name": "cci-plugins", "version": "1"}})


@pytest.mark.parametrize("info", [None, [], "cci-plugins", {}, {"name": ["cci-plugins"]}])
def test_a_malformed_description_is_another_server(info):
    assert not is_cci_server({"serverInfo": info})
    assert not is_cci_server({})


@pytest.mark.parametrize(
    "change",
    [{"status": "odd"}, {"files": "none"}, {"files": [{"name": "../x", "size": 1}]}],
)
async def test_a_malformed_execution_of_our_own_server_may_have_run(change):
    value = dump_execution(Execution(files=(FileInfo("a", 1),))) | change

    class Mcp:
        async def call_tool(self, *_arguments, **_options):
            return ToolResult(meta={META_KEY: value})

    request = RunRequest("s", "1", timedelta(seconds=1), timedelta(seconds=1), None)
    with pytest.raises(ProtocolError, match="the code may have run"):
        await run_full(RunTool(Mcp(), "run", "s"), request, None)
