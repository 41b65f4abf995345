"""A code interpreter for agents: Python in Azure Container Apps sessions, or on this machine.

    async with CodeInterpreter.local() as interpreter:
        execution = await interpreter.run_code("1 + 1")
        print(execution.text)

Doors: `cci_plugins.agent_framework`, `cci_plugins.langchain`, `cci_plugins.openai_agents`,
`cci_plugins.semantic_kernel`; any MCP client by `cci serve`.
Without await: `cci_plugins.sync`. For your tests: `cci_plugins.testing`. Exceptions:
`cci_plugins.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .approval import ApprovalRequest, Approver, Decision
    from .errors import CodeInterpreterError
    from .files.blob import BlobStorage
    from .files.bridge import FileOptions
    from .interpreter import CodeInterpreter
    from .limits import Limits, SandboxLimits
    from .models import (
        ErrorInfo,
        Execution,
        ExecutionStatus,
        FileInfo,
        OutputEvent,
        Result,
        SessionState,
        SharedFile,
    )
    from .pools.azure.custom import CustomSessionPool
    from .pools.azure.platform import PlatformSessionPool
    from .pools.base import SessionPool
    from .pools.local.pool import LocalSessionPool
    from .session import Session
    from .structured import Chart, ChartSeries, Column, Table
    from .tool_options import ToolOptions

_HOME = {
    "ApprovalRequest": "approval",
    "Approver": "approval",
    "BlobStorage": "files.blob",
    "Chart": "structured",
    "ChartSeries": "structured",
    "CodeInterpreter": "interpreter",
    "CodeInterpreterError": "errors",
    "Column": "structured",
    "CustomSessionPool": "pools.azure.custom",
    "Decision": "approval",
    "ErrorInfo": "models",
    "Execution": "models",
    "ExecutionStatus": "models",
    "FileInfo": "models",
    "FileOptions": "files.bridge",
    "Limits": "limits",
    "LocalSessionPool": "pools.local.pool",
    "OutputEvent": "models",
    "PlatformSessionPool": "pools.azure.platform",
    "Result": "models",
    "SandboxLimits": "limits",
    "Session": "session",
    "SessionPool": "pools.base",
    "SessionState": "models",
    "SharedFile": "models",
    "Table": "structured",
    "ToolOptions": "tool_options",
}

__all__ = [
    "ApprovalRequest",
    "Approver",
    "BlobStorage",
    "Chart",
    "ChartSeries",
    "CodeInterpreter",
    "CodeInterpreterError",
    "Column",
    "CustomSessionPool",
    "Decision",
    "ErrorInfo",
    "Execution",
    "ExecutionStatus",
    "FileInfo",
    "FileOptions",
    "Limits",
    "LocalSessionPool",
    "OutputEvent",
    "PlatformSessionPool",
    "Result",
    "SandboxLimits",
    "Session",
    "SessionPool",
    "SessionState",
    "SharedFile",
    "Table",
    "ToolOptions",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cci-plugins")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
