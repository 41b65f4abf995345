"""A code interpreter for agents, in Azure Container Apps sessions or on this machine.

    async with CodeInterpreter.local() as interpreter:
        execution = await interpreter.run_code("1 + 1")
        print(execution.text)

Adapters: `cci_plugins.agent_framework`, `cci_plugins.deepagents`, `cci_plugins.langchain`,
`cci_plugins.openai_agents`, `cci_plugins.semantic_kernel`. MCP clients use `cci mcp` or
`cci serve`. The API without `await` is `cci_plugins.sync`. `cci_plugins.testing` helps your tests.
Exceptions are in `cci_plugins.errors`.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # that of `typing`, which takes longer to load than everything here
if TYPE_CHECKING:
    from typing import Any

    from .common.approval import ApprovalRequest, Approver, Decision
    from .common.environment import Secret
    from .common.limits import Limits, SandboxLimits
    from .common.structured import Chart, ChartSeries, Column, Table
    from .common.usage import Usage
    from .core.background_run import BackgroundOutput, BackgroundRun, BackgroundStatus
    from .core.host_tools import HostTool, ToolApprover, ToolCallRequest
    from .core.interpreter import CodeInterpreter
    from .core.session import Session
    from .errors import CodeInterpreterError
    from .files.blob import BlobStorage
    from .files.checkpoints import Checkpoint
    from .files.file_transfer import FileOptions
    from .models import (
        ErrorInfo,
        Execution,
        ExecutionStatus,
        FileInfo,
        OutputEvent,
        Result,
        SessionState,
        SharedFile,
        ToolCall,
        ToolCallStatus,
    )
    from .pools.azure.mcp_pool import PlatformSessionPool
    from .pools.azure.rest_pool import CustomSessionPool
    from .pools.base import SessionPool
    from .pools.local.pool import LocalSessionPool
    from .tools.options import ToolOptions

_LAZY_EXPORTS = {
    "ApprovalRequest": "common.approval",
    "Approver": "common.approval",
    "BackgroundOutput": "core.background_run",
    "BackgroundRun": "core.background_run",
    "BackgroundStatus": "core.background_run",
    "BlobStorage": "files.blob",
    "Chart": "common.structured",
    "ChartSeries": "common.structured",
    "Checkpoint": "files.checkpoints",
    "CodeInterpreter": "core.interpreter",
    "CodeInterpreterError": "errors",
    "Column": "common.structured",
    "CustomSessionPool": "pools.azure.rest_pool",
    "Decision": "common.approval",
    "ErrorInfo": "models",
    "Execution": "models",
    "ExecutionStatus": "models",
    "FileInfo": "models",
    "FileOptions": "files.file_transfer",
    "HostTool": "core.host_tools",
    "Limits": "common.limits",
    "LocalSessionPool": "pools.local.pool",
    "OutputEvent": "models",
    "PlatformSessionPool": "pools.azure.mcp_pool",
    "Result": "models",
    "SandboxLimits": "common.limits",
    "Secret": "common.environment",
    "Session": "core.session",
    "SessionPool": "pools.base",
    "SessionState": "models",
    "SharedFile": "models",
    "Table": "common.structured",
    "ToolApprover": "core.host_tools",
    "ToolCall": "models",
    "ToolCallRequest": "core.host_tools",
    "ToolCallStatus": "models",
    "ToolOptions": "tools.options",
    "Usage": "common.usage",
}

__all__ = [
    "ApprovalRequest",
    "Approver",
    "BackgroundOutput",
    "BackgroundRun",
    "BackgroundStatus",
    "BlobStorage",
    "Chart",
    "ChartSeries",
    "Checkpoint",
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
    "HostTool",
    "Limits",
    "LocalSessionPool",
    "OutputEvent",
    "PlatformSessionPool",
    "Result",
    "SandboxLimits",
    "Secret",
    "Session",
    "SessionPool",
    "SessionState",
    "SharedFile",
    "Table",
    "ToolApprover",
    "ToolCall",
    "ToolCallRequest",
    "ToolCallStatus",
    "ToolOptions",
    "Usage",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cci-plugins")
    if name not in _LAZY_EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
