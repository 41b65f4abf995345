"""Cases of the troubleshooting page: runs that go on after the answer."""

from __future__ import annotations

from cci_plugins import CodeInterpreter, ToolOptions
from cci_plugins.cli.foundry import connect
from cci_plugins.cli.serve import check_wait
from cci_plugins.pools.base import Capabilities
from cci_plugins.testing import FakeSessionPool

from .cases import happens

OPTIONS = ToolOptions(wait=90)


class RequestPool(FakeSessionPool):
    """A pool whose runs end with their requests."""

    capabilities = Capabilities(name="plain")


@happens("wait (90 s) needs runs in the background: the pool ... cannot run code in the background")
def _(*_: object) -> object:
    from cci_plugins.langchain import CodeInterpreterTool

    return CodeInterpreterTool(interpreter=CodeInterpreter(RequestPool()), options=OPTIONS)


@happens("wait needs a second tool, check_run")
def _(*_: object) -> object:
    from cci_plugins.openai_agents import code_interpreter_tool

    return code_interpreter_tool(options=OPTIONS)


@happens("check_run is only for a tool that answers before its run ends")
def _(*_: object) -> object:
    from cci_plugins.langchain import CodeInterpreterTool

    return CodeInterpreterTool().check_run_tool()


@happens(
    "--wait and --emulate cannot be combined, since a pool of Azure answers for each run when it "
    "ends"
)
def _(*_: object) -> object:
    return check_wait(90, RequestPool(), is_emulated=True)


@happens("--check-runs needs --toolbox, since only a toolbox lists its tools")
def _(*_: object) -> object:
    return connect(check_runs=True)
