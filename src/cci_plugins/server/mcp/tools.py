"""The three tools of the platform's MCP server, over any session pool.

Names and arguments are those of the tutorials (learn.microsoft.com, Container Apps sessions with
MCP); older names of `launchShell` are understood, and one of each is listed.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cci_plugins.common.limits import Limits
from cci_plugins.common.log import logger
from cci_plugins.core.redacted_output import RedactingOutput, redact_execution
from cci_plugins.core.rendering import clip
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.mcp_client import executions, failures
from cci_plugins.models import Execution
from cci_plugins.pools.base import OutputHandler, SessionPool
from cci_plugins.server import identifiers
from cci_plugins.server.answers import (
    build_run_fields,
    find_images,
    get_main_value,
    sanitize_execution,
)
from cci_plugins.server.shell import build_shell_code

from .environments import EnvironmentIdError, Environments, OpenEnvironments

LAUNCH = "launchShell"
RUN_PYTHON = "runPythonCodeInRemoteEnvironment"
RUN_SHELL = "runShellCommandInRemoteEnvironment"
ALIASES = {"launchShellEnvironment": LAUNCH, "launchPythonEnvironment": LAUNCH}


@dataclass(frozen=True, slots=True)
class ToolCallResult:
    """The result of a tool call, in MCP's fields."""

    content: list[dict[str, Any]]
    structured: dict[str, Any] | None = None
    is_error: bool = False
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _CallOptions:
    """What a call asks for beside its arguments.

    Attributes:
        instance: The instance of the session that it needs.
        on_output: Told the output, where the pool streams.
    """

    instance: str | None
    on_output: OutputHandler | None


_Tool = Callable[[Mapping[str, Any], _CallOptions], Awaitable[ToolCallResult]]


class BadArgumentsError(Exception):
    """A call with arguments that do not fit; `code` and the text tell the model what to mend."""

    def __init__(self, message: str, code: str = "InvalidArguments") -> None:
        super().__init__(message)
        self.code = code


class PlatformTools:
    """Lists and calls the tools.

    Args:
        pool: Where code runs.
        limits: `execution_timeout` is the longest run, `output_characters` bounds each stream.
        environments: Which environment ids are given and taken.
    """

    def __init__(
        self, pool: SessionPool, limits: Limits, environments: Environments | None = None
    ) -> None:
        self._pool = pool
        self._environments = OpenEnvironments() if environments is None else environments
        self._limits = limits
        self._tools: dict[str, _Tool] = {
            LAUNCH: self._launch,
            RUN_PYTHON: self._run_python,
            RUN_SHELL: self._run_shell,
        }

    def list_tools(self) -> list[dict[str, Any]]:
        """The tools as `tools/list` tells them."""
        tools = _describe_tools(self._limits.execution_timeout.total_seconds())
        if not self._environments.accepts_any_id:
            next(tool for tool in tools if tool["name"] == LAUNCH)["_meta"] = {
                executions.SIGNED_KEY: True
            }
        return tools

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any],
        on_output: OutputHandler | None = None,
    ) -> ToolCallResult | None:
        """Call a tool; None when there is none of that name.

        Args:
            name: The tool.
            arguments: What it gets.
            meta: `_meta` of the request.
            on_output: Told the output, where the pool streams.
        """
        tool = self._tools.get(ALIASES.get(name, name))
        if tool is None:
            return None
        try:
            instance = meta.get(executions.INSTANCE_KEY)
            options = _CallOptions(instance if isinstance(instance, str) else None, on_output)
            return await tool(arguments, options)
        except BadArgumentsError as error:
            return _build_failure(error.code, str(error))
        except EnvironmentIdError as error:
            return _build_failure(error.code, f"{error} Call {LAUNCH} for one.")
        except CodeInterpreterError as error:
            dumped = failures.dump_error(error)
            return _build_failure(dumped["code"], str(error), {failures.META_KEY: dumped})
        except Exception:  # noqa: BLE001 - a fault of ours must not break the protocol
            logger.exception("a tool failed in the server itself")
            return _build_failure("InternalServerError", "The server failed; its log says why.")

    async def _launch(self, *_: object) -> ToolCallResult:
        return _build_json_result({"environmentId": self._environments.mint()})

    async def _run_python(
        self, arguments: Mapping[str, Any], options: _CallOptions
    ) -> ToolCallResult:
        code = arguments.get("pythonCode")
        if not isinstance(code, str):
            raise BadArgumentsError("pythonCode must be the Python source, as text.")
        execution = await self._execute(arguments, code, options)
        fields = _build_python_fields(execution, self._limits.output_characters)
        return _build_result(execution, fields)

    async def _run_shell(
        self, arguments: Mapping[str, Any], options: _CallOptions
    ) -> ToolCallResult:
        command, args = arguments.get("shellCommand"), arguments.get("execCommandAndArgs")
        is_list = isinstance(args, list) and args and all(isinstance(arg, str) for arg in args)
        if (not isinstance(command, str)) == (not is_list):
            raise BadArgumentsError(
                "Give either shellCommand, as text, or execCommandAndArgs, as a list of texts."
            )
        code = build_shell_code(command if isinstance(command, str) else list(args or []))
        execution = await self._execute(arguments, code, options)
        fields = _build_python_fields(execution, self._limits.output_characters)
        exit_code = fields.pop("executionResult")
        exit_code = exit_code if isinstance(exit_code, int) else -1
        return _build_result(execution, fields | {"exitCode": exit_code}, failed=exit_code != 0)

    async def _execute(
        self, arguments: Mapping[str, Any], code: str, options: _CallOptions
    ) -> Execution:
        session_id = self._environments.resolve_session_id(arguments.get("environmentId"))
        timeout = self._parse_timeout(arguments.get("timeoutSeconds"))
        output = None if options.on_output is None else RedactingOutput(options.on_output)
        try:
            execution = await self._pool.execute(
                session_id,
                code,
                timeout=timeout,
                on_output=None if output is None else output.handle,
                instance=options.instance,
            )
        finally:
            if output is not None:
                output.finish()
        return sanitize_execution(redact_execution(execution))

    def _parse_timeout(self, value: object) -> timedelta:
        max_timeout = self._limits.execution_timeout
        if value is None:
            return max_timeout
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise BadArgumentsError("timeoutSeconds must be a number above 0.")
        return timedelta(seconds=min(value, max_timeout.total_seconds()))


def _build_python_fields(execution: Execution, limit: int) -> dict[str, Any]:
    value = get_main_value(execution)
    fields = build_run_fields(
        execution, limit, clip(value, limit) if isinstance(value, str) else value
    )
    succeeded = execution.status == "succeeded"
    fields["status"] = "Succeeded" if succeeded else "Failed"
    displayed = [clip(r.text, limit) for r in execution.results if r.text and not r.is_main]
    more = {
        "displayed": displayed,
        "files": [file.name for file in execution.files],
        "notes": list(execution.notes),
    }
    return fields | {name: value for name, value in more.items() if value}


def _build_result(
    execution: Execution, fields: dict[str, Any], *, failed: bool = False
) -> ToolCallResult:
    """Fields twice, structured and as text; beside an image only as text.

    Agent Framework drops the image when both are there (its `structured_first` default).
    """
    images = [
        {"type": "image", "data": data, "mimeType": kind} for kind, data in find_images(execution)
    ]
    answer = _build_json_result(fields)
    return ToolCallResult(
        content=[*answer.content, *images],
        structured=None if images else fields,
        is_error=failed or execution.error is not None,
        meta={executions.META_KEY: executions.dump_execution(execution)},
    )


def _build_json_result(fields: dict[str, Any]) -> ToolCallResult:
    text = json.dumps(fields, ensure_ascii=False)
    return ToolCallResult([{"type": "text", "text": text}], fields)


def _build_failure(code: str, message: str, meta: dict[str, Any] | None = None) -> ToolCallResult:
    content = [{"type": "text", "text": f"{code}: {message}"}]
    return ToolCallResult(content, is_error=True, meta=meta or {})


def _describe_tools(max_timeout: float) -> list[dict[str, Any]]:
    environment = {
        "type": "string",
        "minLength": identifiers.MIN_LENGTH,
        "maxLength": identifiers.MAX_LENGTH,
        "description": f"The environment: what {LAUNCH} gave, the same for all steps of a task.",
    }
    limit = {
        "type": "number",
        "exclusiveMinimum": 0,
        "description": f"Stop the run after so many seconds, at most {max_timeout:g}.",
    }
    python = {"type": "string", "description": "Python source; the last expression is shown."}
    command = {"type": "string", "description": "A command line for the shell."}
    args = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    args["description"] = "A program and its arguments, instead of shellCommand."
    runs = {"readOnlyHint": False, "destructiveHint": True, "openWorldHint": False}
    return [
        {
            "name": LAUNCH,
            "title": "Launch an environment",
            "description": "Get the id of a new, empty environment. Call this first, once.",
            "inputSchema": _build_schema({}),
            "annotations": {"readOnlyHint": True, "openWorldHint": False},
        },
        {
            "name": RUN_PYTHON,
            "title": "Run Python",
            "description": "Run Python in an environment. Variables and the files in the working "
            "folder stay for later calls. Images that are displayed come back as images.",
            "inputSchema": _build_schema(
                {"environmentId": environment, "pythonCode": python, "timeoutSeconds": limit},
                "environmentId",
                "pythonCode",
            ),
            "annotations": runs,
        },
        {
            "name": RUN_SHELL,
            "title": "Run a shell command",
            "description": "Run a command in an environment and get its output and exit code. "
            "Give either shellCommand or execCommandAndArgs.",
            "inputSchema": _build_schema(
                {
                    "environmentId": environment,
                    "shellCommand": command,
                    "execCommandAndArgs": args,
                    "timeoutSeconds": limit,
                },
                "environmentId",
            ),
            "annotations": runs,
        },
    ]


def _build_schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return schema | ({"required": list(required)} if required else {})
