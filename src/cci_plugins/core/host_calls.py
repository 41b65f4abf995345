"""The answers to the tool calls of one run: `HostCalls`.

A stub: the checks, the bounds, the approval and the call itself come next.
"""

from __future__ import annotations

from collections.abc import Sequence

from cci_plugins.common.limits import Limits
from cci_plugins.models import ToolCall
from cci_plugins.pools.tool_host import ToolBounds, ToolHost

from .host_tools import HostTool, ToolApprover
from .tool_signatures import build_spec


class HostCalls(ToolHost):
    """Answers the tool calls of one run, and records them.

    Create it where the caller is: it captures the event loop and the context variables. The tools
    run there, whatever loop the pool is on.

    Args:
        tools: The tools of this run, as `check_tools` returned them.
        limits: Bounds of the interpreter.
        code: The code that runs.
        session_key: Key of its conversation.
        approve_tool: Asked before a call that needs approval.

    Attributes:
        records: The calls so far, in the order in which they began.
    """

    def __init__(
        self,
        tools: Sequence[HostTool],
        limits: Limits,
        *,
        code: str,
        session_key: str,
        approve_tool: ToolApprover | None = None,
    ) -> None:
        self.specs = tuple(build_spec(tool) for tool in tools)
        self.bounds = ToolBounds.from_limits(limits)
        self.records: list[ToolCall] = []
        self._code, self._session_key, self._approve_tool = code, session_key, approve_tool

    async def call(self, name: str, arguments: str) -> str:
        """Answer one call: check it, ask for approval, run the tool and return its result."""
        raise NotImplementedError
